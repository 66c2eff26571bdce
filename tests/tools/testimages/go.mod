// The images that the interop tests push and pull; standard library only.
module d8-registry/tests/tools/testimages

go 1.25
