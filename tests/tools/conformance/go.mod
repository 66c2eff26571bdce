// The conformance program of the OCI distribution-spec, run against the server.
//
// The module has no tags: the version is a commit, and the go command writes the pseudo-version of
// it when it fetches the module (tests/interop/prepare.sh does that in a copy of this file).
module d8-registry/tests/tools/conformance

go 1.24

tool github.com/opencontainers/distribution-spec/conformance

require github.com/opencontainers/distribution-spec/conformance 967efdc079b91785ad18c77cc4f8991a47feefbf
