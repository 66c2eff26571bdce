// Reads the report of the conformance program; standard library only.
module d8-registry/tests/tools/verdict

go 1.25
