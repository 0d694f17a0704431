from batches.views import BatchViewSet
from django.contrib import admin
from django.urls import include, path
from rest_framework.routers import DefaultRouter

router = DefaultRouter()
router.register("batches", BatchViewSet)

urlpatterns = [path("admin/", admin.site.urls), path("", include(router.urls))]
