package main

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

const (
	imageType  = "application/vnd.oci.image.manifest.v1+json"
	indexType  = "application/vnd.oci.image.index.v1+json"
	configType = "application/vnd.oci.image.config.v1+json"
	emptyType  = "application/vnd.oci.empty.v1+json"
	layerType  = "application/vnd.oci.image.layer.v1.tar"
)

type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	URLs         []string          `json:"urls,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Data         []byte            `json:"data,omitempty"`
	Platform     map[string]string `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
}

type manifest struct {
	digest, mediaType string
	subject           string // its digest, if there is one
	body              []byte
}

// dataSet is what belongs together: it is pushed, looked at and deleted as one.
type dataSet struct {
	name, algorithm string
	blobs           map[string][]byte       // by digest
	manifests       []manifest              // references first
	tags            map[string]string       // digests by tag
	referrers       map[string][]descriptor // by digest of the subject
	tagParameters   bool                    // tags are pushed by the parameter `tag`
	dataField       bool                    // descriptors contain the content
	customFields    bool                    // manifests have fields of no specification
	indented        bool                    // manifests are not in the usual form of JSON
}

func newSet(name string) *dataSet {
	return &dataSet{name: name, algorithm: "sha256", blobs: map[string][]byte{}, tags: map[string]string{},
		referrers: map[string][]descriptor{}}
}

func (s *dataSet) manifest(digest string) manifest {
	found := slices.IndexFunc(s.manifests, func(m manifest) bool { return m.digest == digest })
	return s.manifests[found]
}

func (s *dataSet) blobDigests() []string { return slices.Sorted(maps.Keys(s.blobs)) }
func (s *dataSet) tagNames() []string    { return slices.Sorted(maps.Keys(s.tags)) }

func (s *dataSet) blob(mediaType string, content []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digestOf(s.algorithm, content), Size: int64(len(content))}
	s.blobs[d.Digest] = content
	if s.dataField {
		d.Data = content
	}
	return d
}

// form is how a manifest is made.
type form struct {
	tag          string
	artifactType string
	subject      *descriptor
	annotations  map[string]string
	config       string // media type of an empty config
	layers       int
	layer        string // media type of the layers
}

// put finishes a manifest and returns its descriptor. The artifact type is that of its referrers entry.
func (s *dataSet) put(fields map[string]any, mediaType, artifactType string, f form) descriptor {
	fields["schemaVersion"], fields["mediaType"] = 2, mediaType
	m := manifest{mediaType: mediaType}
	if f.artifactType != "" {
		fields["artifactType"] = f.artifactType
	}
	if f.subject != nil {
		fields["subject"], m.subject = f.subject, f.subject.Digest
	}
	if f.annotations != nil {
		fields["annotations"] = f.annotations
	}
	if s.customFields {
		fields[fmt.Sprintf("org.%x", random(4))] = "something else"
	}
	m.body = encoded(fields, s.indented)
	m.digest = digestOf(s.algorithm, m.body)
	s.manifests = append(s.manifests, m)
	d := descriptor{MediaType: mediaType, Digest: m.digest, Size: int64(len(m.body))}
	if m.subject != "" {
		entry := d
		entry.ArtifactType, entry.Annotations = artifactType, f.annotations
		s.referrers[m.subject] = append(s.referrers[m.subject], entry)
	}
	if f.tag != "" {
		s.tags[f.tag] = m.digest
	}
	return d
}

func (s *dataSet) image(f form) descriptor {
	if f.layer == "" {
		f.layer = layerType
	}
	layers := []descriptor{}
	for range f.layers {
		layers = append(layers, s.blob(f.layer, random(300)))
	}
	var config descriptor
	if f.config != "" {
		config = s.blob(f.config, []byte("{}"))
	} else {
		config = s.blob(configType, fmt.Appendf(nil,
			`{"architecture":"amd64","os":"linux","author":"%x","rootfs":{"type":"layers","diff_ids":[]}}`, random(8)))
	}
	artifactType := f.artifactType
	if artifactType == "" {
		artifactType = config.MediaType
	}
	return s.put(map[string]any{"config": config, "layers": layers}, imageType, artifactType, f)
}

func (s *dataSet) index(f form, children ...descriptor) descriptor {
	list := []descriptor{}
	for i, child := range children {
		child.Platform = map[string]string{"os": "linux", "architecture": []string{"amd64", "arm64"}[i%2]}
		list = append(list, child)
	}
	return s.put(map[string]any{"manifests": list}, indexType, f.artifactType, f)
}

// twoImages is an index of two images of the same form.
func (s *dataSet) twoImages(f form) descriptor {
	child := f
	child.tag = ""
	if child.layers == 0 {
		child.layers = 2
	}
	return s.index(f, s.image(child), s.image(child))
}

func encoded(fields map[string]any, indented bool) []byte {
	var body []byte
	var err error
	if indented {
		body, err = json.MarshalIndent(fields, " ", "\t")
		body = append(body, '\n')
	} else {
		body, err = json.Marshal(fields)
	}
	if err != nil {
		panic(err) // of what is built here only
	}
	return body
}

func digestOf(algorithm string, content []byte) string {
	if algorithm == "sha512" {
		return fmt.Sprintf("sha512:%x", sha512.Sum512(content))
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(content))
}

func random(length int) []byte {
	content := make([]byte, length)
	_, _ = rand.Read(content) // never fails
	return content
}
