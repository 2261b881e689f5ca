"""The whole resource tree, made from the table of routes: a resource for each, none for anything else."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource, Resource

from kes.api import identities, keys, logs, policies, server
from kes.api.endpoint import Endpoint, Missing
from kes.routes import ROUTES
from kes.server.logs import Feed
from kes.server.metrics import Metrics

_HANDLERS: dict[str, type[Endpoint]] = {
    "/version": server.Version,
    "/v1/ready": server.Ready,
    "/v1/api": server.API,
    "/v1/key/create/": keys.Create,
    "/v1/key/import/": keys.Import,
    "/v1/key/describe/": keys.Describe,
    "/v1/key/delete/": keys.Delete,
    "/v1/key/list/": keys.List,
    "/v1/key/generate/": keys.Generate,
    "/v1/key/encrypt/": keys.Encrypt,
    "/v1/key/decrypt/": keys.Decrypt,
    "/v1/key/hmac/": keys.HMAC,
    "/v1/policy/describe/": policies.Describe,
    "/v1/policy/read/": policies.Read,
    "/v1/policy/list/": policies.List,
    "/v1/identity/describe/": identities.Describe,
    "/v1/identity/list/": identities.List,
    "/v1/identity/self/describe": identities.DescribeSelf,
}


class Branch(Resource):
    """A node between the root and the routes. It answers nothing itself: the site turns it into a 404."""

    def getChild(self, path: bytes, request: object) -> IResource:
        return Missing()

    def branch(self, segment: bytes) -> Branch:
        """The child for a path segment, made at need."""
        child = self.children.get(segment)
        if child is None:
            child = Branch()  # type: ignore[no-untyped-call]
            self.putChild(segment, child)
        assert isinstance(child, Branch)
        return child


def make_tree(clock: IReactorTime, metrics: Metrics, errors: Feed, audit: Feed) -> Resource:
    """The root of the tree. `clock` times what does not answer at once."""
    root = Branch()  # type: ignore[no-untyped-call]
    for route in ROUTES:
        match route.path:
            case "/v1/status":
                endpoint: Endpoint = server.Status(route, clock, metrics)
            case "/v1/metrics":
                endpoint = server.Prometheus(route, clock, metrics)
            case "/v1/log/error":
                endpoint = logs.Log(route, clock, errors)
            case "/v1/log/audit":
                endpoint = logs.Log(route, clock, audit)
            case path:
                endpoint = _HANDLERS[path](route, clock)
        *branches, leaf = route.path.strip("/").encode().split(b"/")
        node = root
        for segment in branches:
            node = node.branch(segment)
        node.putChild(leaf, endpoint)
    return root
