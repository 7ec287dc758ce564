"""The Client-Server API as the specification's OpenAPI files have it: operations, schemas, events.

`client_server.json` is made by `bundle.py` from the data files of the Matrix specification v1.19
(github.com/matrix-org/matrix-spec), Apache License 2.0, copyright by their authors, which are named there. Prose and
examples are left out, the schemas are unchanged.
"""
