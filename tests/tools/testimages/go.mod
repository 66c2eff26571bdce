// The images that the judges push and pull; standard library only.
module d8-registry/tests/tools/testimages

go 1.25
