SECRET_KEY = "only-good-enough-for-an-example"
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "api"
INSTALLED_APPS = ["rest_framework", "greenkit.django"]
REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": [], "UNAUTHENTICATED_USER": None}
