"""An authorization server of Django and django-oauth-toolkit on loopback, for tests.

Reads one line of JSON: {"dir", "cert_file", "key_file", "scopes", "grace_seconds", "lifetime_seconds", "clients": [{"id", "secret",
"grant", "redirect_uris"}]}. Prints one: {"issuer"}. Ends when its standard input does.
"""

import json
import os
import socketserver
import ssl
import sys
import threading
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

config = json.loads(sys.stdin.readline())

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="only for tests",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "oauth2_provider"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        __name__ + ".logged_in",
    ],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.path.join(config["dir"], "toolkit.db"),
            "OPTIONS": {"timeout": 60},
        }
    },
    OAUTH2_PROVIDER={
        "SCOPES": {scope: scope for scope in config["scopes"]},
        "DEFAULT_SCOPES": config["scopes"][:1],
        "ACCESS_TOKEN_EXPIRE_SECONDS": config["lifetime_seconds"],
        "ROTATE_REFRESH_TOKEN": True,
        "REFRESH_TOKEN_GRACE_PERIOD_SECONDS": config["grace_seconds"],
        "PKCE_REQUIRED": True,
        "ALLOWED_REDIRECT_URI_SCHEMES": ["http", "https"],
    },
)
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import include, path
from oauth2_provider.decorators import protected_resource
from oauth2_provider.models import Application


def logged_in(get_response):
    """The one user is always logged in: consent needs somebody, and no test is about passwords."""

    def middleware(request):
        if request.path.startswith("/o/authorize"):
            request.user = User.objects.get(username="ada")
        return get_response(request)

    return middleware


@protected_resource(scopes=config["scopes"][:1])
def api(request):
    return JsonResponse({"ok": True})


urlpatterns = [
    path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    path("api", api),
]


class Handler(WSGIRequestHandler):
    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self):  # without the look-up of the host's name
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address
        self.setup_environ()
        self.base_environ["HTTPS"] = "on"


def main():
    call_command("migrate", verbosity=0)
    user = User.objects.create_user("ada", password=config["password"] or None)
    for client in config["clients"]:
        Application.objects.create(
            name=client["id"],
            client_id=client["id"],
            client_secret=client["secret"],
            client_type=Application.CLIENT_CONFIDENTIAL,
            authorization_grant_type=client["grant"],
            redirect_uris=" ".join(client["redirect_uris"] or []),
            skip_authorization=True,
            user=user,
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(config["cert_file"], config["key_file"])
    server = Server(("127.0.0.1", 0), Handler)
    server.set_app(get_wsgi_application())
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(json.dumps({"issuer": "https://127.0.0.1:%d" % server.server_port}), flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    os._exit(0)


main()
