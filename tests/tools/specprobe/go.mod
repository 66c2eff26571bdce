// Asks a registry what the OCI distribution-spec demands; standard library only.
module d8-registry/tests/tools/specprobe

go 1.25
