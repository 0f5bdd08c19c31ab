"""HTTP servers that answer as Qdrant does."""

import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, models


class Server:
    """A server that fails as it is told to, and else says that whatever it is asked for exists.

    Attributes
    ----------
    requests
        Method and path of each request so far, without those that ask whether it is there.
    """

    def __init__(self, *statuses):
        self.requests = []
        self._statuses = list(statuses)
        self._http = HTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://user:s3cret@127.0.0.1:{self._http.server_port}?token=token"

    def close(self):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, method, path, body):
        """Return status and result of a request."""
        return 200, {"exists": True}

    def _handler(server):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = urlsplit(self.path).path
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
                status, answer = 200, {"title": "qdrant", "version": "1.20.0"}
                if path != "/":
                    server.requests.append(f"{self.command} {path}")
                    status = server._statuses.pop(0) if server._statuses else 200
                    result = "no"
                    if status == 200:
                        status, result = server.answer(self.command, path, body)
                    answer = (
                        {"result": result, "status": "ok", "time": 0.0}
                        if status == 200
                        else {"status": {"error": result}, "time": 0.0}
                    )
                if status == 0:
                    return  # closes the connection without an answer
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            do_PUT = do_POST = do_PATCH = do_GET  # noqa: N815

            def log_message(self, *args):
                pass

        return Handler


class StrictServer(Server):
    """A server in strict mode: it filters by nothing without a payload index of the right type.

    Embedded Qdrant, which knows no such indexes, does the rest.

    Attributes
    ----------
    indexed
        The type of each payload index, by collection and path.
    embedded
        Holds the points.
    """

    def __init__(self):
        self.indexed = {}
        self.embedded = QdrantClient(":memory:")
        super().__init__()

    def close(self):
        super().close()
        self.embedded.close()

    def answer(self, method, path, body):
        _, _, name, *rest = path.split("/")
        indexed = self.indexed.setdefault(name, {})
        for key, types in _filtered(body):
            if indexed.get(key) not in types:
                return 400, (
                    f'Bad request: Index required but not found for "{key}" of one of the '
                    f"following types: [{', '.join(types)}]. Help: Create an index for this key or "
                    "use a different filter."
                )
        match method, rest:
            case "POST", ["points"] if odd := [id_ for id_ in body["ids"] if not _is_id(id_)]:
                return 400, f"Format error in JSON body: value {odd[0]} is not a valid point ID"
            case "PUT", ["index"]:
                indexed[body["field_name"]] = body["field_schema"]
                return 200, {"operation_id": 0, "status": "completed"}
            case "GET", []:
                info = self.embedded.get_collection(name).model_dump(mode="json")
                schema = {key: {"data_type": type_, "points": 0} for key, type_ in indexed.items()}
                return 200, info | {"payload_schema": schema}
        return 200, _plain(self._asked(method, name, "/".join(rest), body))

    def _asked(self, method, name, what, body):
        client = self.embedded
        match method, what:
            case "GET", "exists":
                return {"exists": client.collection_exists(name)}
            case "PUT", "":
                vectors = models.VectorParams(**body["vectors"])
                return client.create_collection(name, vectors, metadata=body.get("metadata"))
            case "PATCH", "":
                return client.update_collection(name, metadata=body["metadata"])
            case "PUT", "points":
                points = [models.PointStruct(**point) for point in body["points"]]
                return client.upsert(name, points)
            case "POST", "points":
                return client.retrieve(name, body["ids"], body["with_payload"])
            case "POST", "points/delete":
                return client.delete(name, body.get("points") or models.FilterSelector(**body))
            case "POST", "points/count":
                return client.count(name, _filter(body))
            case "POST", "points/scroll":
                points, offset = client.scroll(
                    name, limit=body["limit"], offset=body.get("offset"), with_payload=True
                )
                return {"points": _plain(points), "next_page_offset": offset}
            case "POST", "points/query/batch":
                queries = [models.QueryRequest(**query) for query in body["searches"]]
                return client.query_batch_points(name, queries)
            case "POST", "facet":
                return client.facet(name, body["key"], _filter(body), limit=body["limit"])
        raise AssertionError(f"nobody has asked this before: {method} {name} {what} {body}")


def _is_id(value):
    try:
        return isinstance(value, int) or bool(uuid.UUID(value))
    except ValueError:
        return False


def _filtered(body):
    """Yield the paths that a request filters by, and the types of index that would do."""
    if isinstance(body, list):
        for part in body:
            yield from _filtered(part)
    elif isinstance(body, dict) and "match" in body:
        (value,) = (value for value in body["match"].values() if value is not None)
        value = value[0] if isinstance(value, list) else value
        yield body["key"], [{str: "keyword", bool: "bool", int: "integer"}[type(value)]]
    elif isinstance(body, dict) and "range" in body:
        yield body["key"], ["float", "integer"]
    elif isinstance(body, dict) and "is_empty" in body:
        yield body["is_empty"]["key"], ["keyword", "bool", "integer", "float"]
    elif isinstance(body, dict):
        for part in body.values():
            yield from _filtered(part)


def _filter(body):
    return models.Filter(**body["filter"]) if body.get("filter") else None


def _plain(result):
    """Return what stands for a result in JSON."""
    if isinstance(result, list):
        return [_plain(part) for part in result]
    return result.model_dump(mode="json") if hasattr(result, "model_dump") else result
