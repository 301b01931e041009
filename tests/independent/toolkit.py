"""
Django OAuth Toolkit as a program: ``python toolkit.py``; prints one line of JSON when it listens.

An authorization server that nobody of ours wrote, so that a misreading of the standards which our client and our own
simulators share does not stay unseen. It rotates refresh tokens, and a spent one that comes back ends the grant.
Whoever opens its pages is logged in as ana and agrees at once. ``TOOLKIT_PORT`` says where it listens, else any free port;
``TOOLKIT_SECRET`` is the secret of its clients. The arguments are the redirect addresses that it knows.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from socketserver import ThreadingMixIn
from tempfile import TemporaryDirectory
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import settings

NAME = "toolkit"
"""Of this module to Django."""
SCOPES = {"read": "Read", "write": "Write", "introspection": "Introspect", "openid": "OpenID Connect"}
SECRET = os.environ.get("TOOLKIT_SECRET", "")
PORT = int(os.environ.get("TOOLKIT_PORT", "0"))


class Threading(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - wsgiref's name
        """Not on our standard error: addresses hold codes."""


def configure(folder: str) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    settings.configure(
        SECRET_KEY="for a test",
        DEBUG=False,
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        ROOT_URLCONF=NAME,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/db.sqlite3"}},
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "oauth2_provider",
        ],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", f"{NAME}.log_in_ana"],
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
        OAUTH2_PROVIDER={
            "SCOPES": SCOPES,
            "DEFAULT_SCOPES": ["read"],
            "OIDC_ENABLED": True,
            "OIDC_RSA_PRIVATE_KEY": key.decode(),
            "PKCE_REQUIRED": True,
            "ROTATE_REFRESH_TOKEN": True,
            "REFRESH_TOKEN_REUSE_PROTECTION": True,
            "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": 0,
            "ACCESS_TOKEN_EXPIRE_SECONDS": 3600,
            "REFRESH_TOKEN_EXPIRE_SECONDS": 86400,
            "DEVICE_FLOW_INTERVAL": 1,
            "OAUTH_DEVICE_VERIFICATION_URI": "http://localhost/o/device",
            "ALLOWED_REDIRECT_URI_SCHEMES": ["http"],
        },
    )
    django.setup()


def log_in_ana(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A browser of hers is always logged in; a program that shows its own credentials is not touched."""
    from django.contrib.auth import get_user_model

    def answer(request: Any) -> Any:
        request.user = get_user_model().objects.get(username="ana")
        request._dont_enforce_csrf_checks = True
        return get_response(request)

    return answer


def api(request: Any) -> Any:
    """What the tokens are for."""
    from django.http import JsonResponse
    from oauth2_provider.models import get_access_token_model

    token = request.headers.get("Authorization", "").removeprefix("Bearer ")
    found = get_access_token_model().objects.filter(token=token).first()
    if found is None or not found.is_valid():
        return JsonResponse({"error": "invalid_token"}, status=401)
    return JsonResponse({"user": found.user.username if found.user else None, "scope": found.scope})


def control(request: Any) -> Any:
    """For the tests: end every access token, agree to a device's code, and count what is alive."""
    from django.http import JsonResponse
    from django.utils import timezone
    from oauth2_provider.models import (
        get_access_token_model,
        get_device_grant_model,
        get_refresh_token_model,
    )

    match request.GET.get("do"):
        case "expire":
            # A moment ago, not long ago: the refresh token's own end is counted from the access token's.
            get_access_token_model().objects.update(expires=timezone.now() - timedelta(seconds=1))
        case "agree":
            model = get_device_grant_model()
            model.objects.filter(user_code=request.GET["code"]).update(
                status=model.AUTHORIZED, user_id=request.user.pk
            )
        case "deny":
            model = get_device_grant_model()
            model.objects.filter(user_code=request.GET["code"]).update(status=model.DENIED)
    alive = get_refresh_token_model().objects.filter(revoked__isnull=True).count()
    return JsonResponse({"access": get_access_token_model().objects.count(), "refresh": alive})


def register() -> None:
    from django.contrib.auth import get_user_model
    from oauth2_provider.models import get_application_model

    ana = get_user_model().objects.create_user("ana", "ana@example.com", "not used")
    model = get_application_model()
    for client, grant, kind in (
        ("web client: 1", "authorization-code", "confidential"),
        ("my-client", "authorization-code", "confidential"),
        ("public", "authorization-code", "public"),
        ("machine", "client-credentials", "confidential"),
        ("tv", "urn:ietf:params:oauth:grant-type:device_code", "public"),
    ):
        model.objects.create(
            name=client,
            client_id=client,
            client_secret=SECRET,
            client_type=kind,
            authorization_grant_type=grant,
            redirect_uris=" ".join(sys.argv[1:]) if grant == "authorization-code" else "",
            skip_authorization=True,
            algorithm="RS256" if grant == "authorization-code" else "",
            user=ana,
        )


def main() -> None:
    with TemporaryDirectory() as folder:
        configure(folder)
        from django.core.management import call_command
        from django.core.wsgi import get_wsgi_application

        call_command("migrate", verbosity=0)
        register()
        application = get_wsgi_application()
        server = make_server("127.0.0.1", PORT, application, server_class=Threading, handler_class=Quiet)
        print(json.dumps({"port": server.server_port}), flush=True)
        server.serve_forever()


def __getattr__(name: str) -> Any:
    """Django reads ``urlpatterns`` from here once it is set up; before, its views cannot be imported."""
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.urls import include, path
    from oauth2_provider.urls import metadata_urlpatterns

    return [
        *metadata_urlpatterns,
        path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
        path("api/", api),
        path("control/", control),
    ]


if __name__ == "__main__":
    sys.modules["toolkit"] = sys.modules["__main__"]
    main()
