"""As much of W&B's server as a run speaks to, on this machine; and its offline files, read as its own reader does."""

import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as protobuf

_BLOCK, _HEADER = 32768, 7  # of LevelDB's log format, which `.wandb` files follow after seven bytes of their own


@dataclass
class TrackedRun:
    """Messages about one run."""

    settings: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    exit_code: int | None = None


class WandbServer:
    """Answers on a port of its own until it is told to hang or to go away."""

    def __init__(self) -> None:
        self.runs: dict[str, TrackedRun] = {}
        self.hanging = threading.Event()
        self.status = 200  # of its answers to posts
        self._over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._reply({})

            def do_PUT(self) -> None:
                self._body()
                self._reply({})

            def do_POST(self) -> None:
                content = json.loads(self._body() or b"{}")
                if server.hanging.is_set():
                    server._over.wait()
                if self.path == "/graphql":
                    self._reply({"data": server._answer(content["operationName"], content.get("variables") or {})})
                else:
                    server._stream(self.path.split("/")[-2], content)
                    self._reply({})

            def _body(self) -> bytes:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

            def _reply(self, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(server.status if self.command == "POST" else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # a client that has gone

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        """Refuse every further connection."""
        self._over.set()
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "e", "name": "me"}
        if operation == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            lines = [json.dumps(run.history[key]) for key in sorted(run.history)] if run else []
            bucket = run and {
                "id": "r", "name": variables["name"], "summaryMetrics": "{}", "displayName": "n", "logLineCount": 0,
                "historyLineCount": len(lines), "eventsLineCount": 0, "historyTail": json.dumps(lines[-1:]),
                "eventsTail": "[]", "config": "{}", "tags": [], "notes": None, "wandbConfig": '{"t": 1}',
            }  # fmt: skip
            return {"model": {"id": "p", "name": "p", "entity": entity, "bucket": bucket}}
        if operation == "UpsertBucket":
            known = variables["name"] in self.runs
            run = self.runs.setdefault(variables["name"], TrackedRun())
            run.settings |= {key: value for key, value in variables.items() if value is not None}
            project = {"id": "p", "name": "p", "entity": entity}
            bucket = {
                "id": "r", "name": variables["name"], "displayName": "n", "description": None, "config": "{}",
                "sweepName": None, "project": project, "historyLineCount": len(run.history),
            }  # fmt: skip
            return {"upsertBucket": {"bucket": bucket, "inserted": not known}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        return {}

    def _stream(self, run_id: str, content: dict[str, Any]) -> None:
        run = self.runs[run_id]
        chunk = (content.get("files") or {}).get("wandb-history.jsonl")
        if chunk:
            run.history |= {chunk["offset"] + index: json.loads(line) for index, line in enumerate(chunk["content"])}
        if content.get("complete") is not None:
            run.complete, run.exit_code = content["complete"], content.get("exitcode")


def records(file: Path) -> Iterator[protobuf.Record]:
    """The records of a `.wandb` file. Source: LevelDB's doc/log_format.md; the checksums are left unchecked."""
    content, position, parts = file.read_bytes()[_HEADER:], 0, []
    assert file.read_bytes().startswith(b":W&B")
    while position + _HEADER <= len(content):
        # Blocks count the file's own seven bytes; what is left of one after its last record is zero.
        room = _BLOCK - (position + _HEADER) % _BLOCK
        if room < _HEADER:
            position += room
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts.append(content[position + _HEADER : position + _HEADER + length])
        position += _HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = protobuf.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def offline_runs(directory: Path) -> dict[str, list[protobuf.Record]]:
    """Run id -> records, of all offline files below a directory in the order of their start."""
    found: dict[str, list[protobuf.Record]] = {}
    for file in sorted(directory.rglob("offline-run-*/*.wandb"), key=lambda path: path.parent.name):
        content = [*records(file)]
        (run,) = {record.run.run_id for record in content if record.HasField("run")}
        found.setdefault(run, []).extend(content)
    return found


def history(content: list[protobuf.Record]) -> list[dict[str, Any]]:
    """The rows of metrics that were logged, without pictures, tables and W&B's own columns."""
    rows = []
    for record in content:
        if record.HasField("history"):
            items = {item.key or item.nested_key[0]: item for item in record.history.item if len(item.nested_key) < 2}
            row = {key: json.loads(item.value_json) for key, item in items.items() if not key.startswith("_")}
            rows += [row] if set(row) - {"trainer/global_step"} else []
    return rows
