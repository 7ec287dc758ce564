"""Writes client_server.json from a checkout of the Matrix specification.

    python -m tests.client_api.openapi.bundle PATH/TO/matrix-spec/data

needs PyYAML. Every `$ref` becomes one into `$defs`; descriptions, examples, titles and `x-` keys are left out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

BUNDLE = Path(__file__).parent / "client_server.json"

LEFT_OUT = ("description", "example", "examples", "title", "externalDocs", "deprecated")
SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "dependentSchemas")
LISTS_OF_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
SCHEMAS = ("items", "additionalProperties", "not", "if", "then", "else", "propertyNames", "contains")
METHODS = ("get", "put", "post", "delete")


class Bundle:
    def __init__(self, data: Path) -> None:
        self.data = data
        self.files: dict[str, Any] = {}
        self.defs: dict[str, Any] = {}

    def load(self, path: str) -> Any:
        import yaml

        if path not in self.files:
            # What YAML takes for a date is text in JSON.
            loader = type("Loader", (yaml.SafeLoader,), {})
            loader.yaml_implicit_resolvers = {
                first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
                for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
            }
            self.files[path] = yaml.load((self.data / path).read_text(), Loader=loader)
        return self.files[path]

    def target(self, path: str, ref: str) -> tuple[str, str, Any]:
        """The file, the place in it and what stands there."""
        file, _, place = ref.partition("#")
        target = path if not file else normpath(str(PurePosixPath(path).parent / file))
        found = self.load(target)
        for step in place.split("/")[1:]:
            found = found[step.replace("~1", "/").replace("~0", "~")]
        return target, place, found

    def resolved(self, path: str, value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """A parameter, a response or a body, where it really stands."""
        while "$ref" in value:
            path, _, value = self.target(path, value["$ref"])
        return path, value

    def schema(self, path: str, schema: Any) -> Any:
        if not isinstance(schema, dict):
            return schema
        made: dict[str, Any] = {}
        for key, value in schema.items():
            if key in LEFT_OUT or key.startswith("x-"):
                continue
            if key == "$ref":
                made[key] = self.definition(path, value)
            elif key in SCHEMAS_BY_NAME:
                made[key] = {name: self.schema(path, each) for name, each in value.items()}
            elif key in LISTS_OF_SCHEMAS:
                made[key] = [self.schema(path, each) for each in value]
            elif key in SCHEMAS:
                made[key] = self.schema(path, value)
            else:
                made[key] = value
        return made

    def definition(self, path: str, ref: str) -> str:
        target, place, found = self.target(path, ref)
        name = target.removeprefix("api/client-server/").removesuffix(".yaml").replace("/", ".")
        name += place.replace("/", ".")
        if name not in self.defs:
            self.defs[name] = {}  # a schema may contain itself
            self.defs[name] = self.schema(target, found)
        return f"#/$defs/{name}"

    def content(self, path: str, content: dict[str, Any]) -> dict[str, Any]:
        """Schema by content type."""
        return {kind: self.schema(path, media.get("schema", {})) for kind, media in content.items()}

    def operations(self, path: str) -> list[dict[str, Any]]:
        file = self.load(path)
        base = file["servers"][0]["variables"]["basePath"]["default"] if "variables" in file["servers"][0] else ""
        made = []
        for template, methods in file["paths"].items():
            for method in METHODS:
                if method not in methods:
                    continue
                operation = methods[method]
                parameters = [*methods.get("parameters", []), *operation.get("parameters", [])]
                body_path, body = self.resolved(path, operation.get("requestBody", {}))
                made.append(
                    {
                        "id": operation["operationId"],
                        "method": method.upper(),
                        "path": base + template.strip(),
                        "parameters": [self.parameter(path, each) for each in parameters],
                        "body": self.content(body_path, body.get("content", {})),
                        "responses": {
                            str(status): self.content(*self.content_of(path, response))
                            for status, response in operation["responses"].items()
                        },
                    }
                )
        return made

    def content_of(self, path: str, response: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        path, response = self.resolved(path, response)
        return path, response.get("content", {})

    def parameter(self, path: str, value: dict[str, Any]) -> dict[str, Any]:
        path, value = self.resolved(path, value)
        return {
            "in": value["in"],
            "name": value["name"],
            "required": value.get("required", False),
            "schema": self.schema(path, value["schema"]),
        }

    def made(self) -> dict[str, Any]:
        operations = []
        for file in sorted((self.data / "api/client-server").glob("*.yaml")):
            operations += self.operations(f"api/client-server/{file.name}")
        events = {}
        for file in sorted((self.data / "event-schemas/schema").glob("*.yaml")):
            name = file.name.removesuffix(".yaml")
            if "$" not in name and name.startswith("m."):
                events[name] = self.definition(f"event-schemas/schema/{file.name}", "")
        return {"operations": operations, "events": events, "$defs": dict(sorted(self.defs.items()))}


def text(made: dict[str, Any]) -> str:
    """JSON with one operation, event or schema a line."""

    def line(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)

    operations = ",\n".join(line(each) for each in made["operations"])
    rest = [
        f'"{part}":{{\n' + ",\n".join(f"{line(name)}:{line(value)}" for name, value in made[part].items()) + "\n}"
        for part in ("events", "$defs")
    ]
    return ",\n".join((f'{{"operations":[\n{operations}\n]', *rest)) + "}\n"


if __name__ == "__main__":
    made = Bundle(Path(sys.argv[1])).made()
    BUNDLE.write_text(text(made))
    print(f"{len(made['operations'])} operations, {len(made['events'])} events, {BUNDLE.stat().st_size:,} octets")
