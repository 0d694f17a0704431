SECRET_KEY = "only-good-enough-for-an-example"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "api"
INSTALLED_APPS = ["rest_framework", "greenkit.django"]
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "UNAUTHENTICATED_USER": None,
}
