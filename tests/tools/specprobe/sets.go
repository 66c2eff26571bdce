package main

import (
	"fmt"
	"strings"
)

const (
	oneType     = "application/vnd.probe.one"
	anotherType = "application/vnd.probe.another"
)

// artifact is the form of an artifact with an empty config, see "Guidelines for Artifact Usage" of
// the image-spec.
var artifact = form{artifactType: oneType, config: emptyType, layers: 1, layer: oneType}

// dataSets are the kinds of content that a registry has to take as they are.
func dataSets(sparse bool) []*dataSet {
	var all []*dataSet
	add := func(name string, build func(*dataSet)) {
		s := newSet(name)
		build(s)
		all = append(all, s)
	}
	add("image", func(s *dataSet) { s.image(form{tag: "image", layers: 2}) })
	add("image without layers", func(s *dataSet) { s.image(form{tag: "no-layers"}) })
	add("index", func(s *dataSet) { s.twoImages(form{tag: "index"}) })
	add("index of indexes", func(s *dataSet) {
		s.index(form{tag: "index-of-indexes"}, s.twoImages(form{}), s.twoImages(form{}))
	})
	add("empty index", func(s *dataSet) { s.index(form{tag: "empty-index"}) })
	// Nearly 4 MB, which a registry should take.
	add("large manifest", func(s *dataSet) {
		annotations := map[string]string{}
		for i := range 410 {
			annotations[fmt.Sprintf("large-%d", i)] = strings.Repeat("A", 10_000)
		}
		s.image(form{tag: "large-manifest", layers: 2, annotations: annotations})
	})
	add("data field", func(s *dataSet) { s.dataField = true; s.image(form{tag: "data-field", layers: 2}) })
	add("custom fields", func(s *dataSet) { s.customFields = true; s.twoImages(form{tag: "custom-fields"}) })
	add("indented JSON", func(s *dataSet) { s.indented = true; s.twoImages(form{tag: "indented"}) })
	add("layers from elsewhere", layersFromElsewhere)
	add("artifact", func(s *dataSet) { s.image(tagged(artifact, "artifact")) })
	add("artifact index", func(s *dataSet) { s.twoImages(tagged(artifact, "artifact-index")) })
	add("artifact without layers", func(s *dataSet) {
		empty := s.blob(emptyType, []byte("{}"))
		s.put(map[string]any{"config": empty, "layers": []descriptor{empty}}, imageType, oneType,
			form{tag: "artifact-without-layers", artifactType: oneType})
	})
	add("artifacts with a subject", artifactsWithSubject)
	add("index with a subject", indexWithSubject)
	add("missing subject", func(s *dataSet) {
		missing := descriptor{MediaType: imageType, Size: 123, Digest: digestOf("sha256", random(9))}
		s.image(referring(tagged(artifact, "missing-subject"), missing))
	})
	if sparse {
		add("sparse", sparseSet)
	}
	add("sha512", func(s *dataSet) { s.algorithm = "sha512"; s.twoImages(form{}) })
	for _, algorithm := range []string{"sha256", "sha512"} {
		add(algorithm+" with tag parameters", func(s *dataSet) {
			s.algorithm, s.tagParameters = algorithm, true
			s.twoImages(form{tag: "parameter-of-" + algorithm})
			for i, m := range s.manifests {
				s.tags[fmt.Sprintf("parameter-%d-of-%s", i, algorithm)] = m.digest
			}
		})
	}
	return all
}

func tagged(f form, tag string) form { f.tag = tag; return f }

// referring adds a subject, and annotations that the list of referrers has to repeat.
func referring(f form, subject descriptor) form {
	f.subject = &subject
	f.annotations = map[string]string{"hello": "world", fmt.Sprintf("random-%x", random(5)): "value"}
	return f
}

// Layers with `urls` of a non-distributable type need not be in the registry (image-spec, layer.md).
func layersFromElsewhere(s *dataSet) {
	layers := []descriptor{s.blob(layerType, random(300))}
	for _, suffix := range []string{"", "+gzip"} {
		digest := digestOf("sha256", random(9))
		layers = append(layers, descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar" + suffix,
			Digest: digest, Size: 123456, URLs: []string{"https://store.example.com/blobs/" + digest}})
	}
	config := s.blob(configType, []byte(`{"architecture":"amd64","os":"linux"}`))
	s.put(map[string]any{"config": config, "layers": layers}, imageType, "", form{tag: "layers-from-elsewhere"})
}

func artifactsWithSubject(s *dataSet) {
	subject := s.image(form{tag: "subject", layers: 2})
	// The type of this one's entry is that of its config.
	plain := form{layers: 2, subject: &subject}
	s.image(plain)
	s.image(referring(tagged(artifact, "artifact-one"), subject))
	another := artifact
	another.artifactType, another.layer = anotherType, octets
	s.image(referring(tagged(another, "artifact-two"), subject))
}

func indexWithSubject(s *dataSet) {
	subject := s.twoImages(form{tag: "subject"})
	s.twoImages(referring(tagged(artifact, "artifact-index"), subject))
	// An index without an artifact type has none in its entry either.
	s.index(referring(form{}, subject))
}

// sparseSet lacks a layer and a child.
func sparseSet(s *dataSet) {
	s.image(form{tag: "sparse-image", layers: 2})
	for _, digest := range s.blobDigests() {
		if len(s.blobs[digest]) == 300 {
			delete(s.blobs, digest)
			break
		}
	}
	s.index(form{tag: "sparse-index"}, s.image(form{layers: 2}),
		descriptor{MediaType: imageType, Digest: digestOf("sha256", random(9)), Size: 1024})
}
