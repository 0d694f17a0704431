from batches.views import BatchViewSet
from django.contrib import admin
from django.urls import include, path
from live import views
from rest_framework.routers import DefaultRouter

router = DefaultRouter()
router.register("batches", BatchViewSet)

urlpatterns = [
    path("admin/", admin.site.urls),
    path("live/", views.page, name="live"),
    path("live/events/", views.events, name="live-events"),
    path("", include(router.urls)),
]
