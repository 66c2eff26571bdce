package main

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// root is where Deckhouse keeps its images.
const root = "system/deckhouse"

var steps = []struct {
	name string
	run  func(target) error
}{
	{"write permission is asked by an upload that is given up again", writePermission},
	{"write check image", writeCheck},
	{"push of an image by its digest as the tag, then again", pushTwice},
	{"half an image is filled up again", fillUp},
	{"discovery index is listed", discovery},
	{"image with a subject leaves the fallback tag alone", subject},
	{"a reader pulls and can't push", reader},
}

func writePermission(t target) error {
	s, err := t.session(t.writer)
	if err != nil {
		return err
	}
	ref, err := s.tag(root, "any")
	if err != nil {
		return err
	}
	if err := remote.CheckPushPermission(ref, keychain{s.auth}, s.wire); err != nil {
		return err
	}
	seen, err := s.wire.await("DELETE upload")
	if err != nil {
		return err
	}
	return only(seen, map[string]int{"POST upload 202": 1, "DELETE upload 204": 1})
}

func writeCheck(t target) error {
	s, err := t.session(t.writer)
	if err != nil {
		return err
	}
	image, err := random.Image(512, 1)
	if err != nil {
		return err
	}
	return s.firstPush(root, "d8WriteCheck", image)
}

// firstPush writes an image of which the registry has nothing yet and checks each request.
func (s *session) firstPush(repository, tag string, image v1.Image) error {
	ref, err := s.tag(repository, tag)
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	if err := remote.Write(ref, image, s.options()...); err != nil {
		return err
	}
	seen := s.wire.take()
	blobs := len(layers) + 1
	if err := only(seen, map[string]int{
		"HEAD manifest 404": 1, "HEAD blob 404": blobs, "POST upload 202": blobs,
		"PATCH upload 202": blobs, "PUT upload 201": blobs, "PUT manifest 201": 1,
	}); err != nil {
		return err
	}
	for _, one := range seen {
		if one.kind == "POST upload" || one.kind == "PATCH upload" {
			location := one.header.Get("Location")
			if location == "" || location[0] != '/' {
				return fmt.Errorf("%s: Location %q is not relative", one, location)
			}
		}
	}
	return s.holds(ref, image)
}

// holds checks that HEAD of the tag answers with the digest of the image.
func (s *session) holds(ref name.Reference, image v1.Image) error {
	want, err := image.Digest()
	if err != nil {
		return err
	}
	head, err := remote.Head(ref, s.options()...)
	if err != nil {
		return err
	}
	s.wire.take()
	if head.Digest != want {
		return fmt.Errorf("HEAD of %s says %s, want %s", ref, head.Digest, want)
	}
	return nil
}

func pushTwice(t target) error {
	s, err := t.session(t.writer)
	if err != nil {
		return err
	}
	image, tag, err := imageWithDigestTag(4, 3<<20)
	if err != nil {
		return err
	}
	if err := s.firstPush(root, tag, image); err != nil {
		return err
	}
	ref, err := s.tag(root, tag)
	if err != nil {
		return err
	}
	if err := remote.Write(ref, image, s.options()...); err != nil {
		return err
	}
	if err := only(s.wire.take(), map[string]int{"HEAD manifest 200": 1}); err != nil {
		return fmt.Errorf("second push: %w", err)
	}
	back, err := remote.Image(ref, s.options()...)
	if err != nil {
		return err
	}
	return validate.Image(back)
}

func fillUp(t target) error {
	s, err := t.session(t.writer)
	if err != nil {
		return err
	}
	image, tag, err := imageWithDigestTag(3, 200_000)
	if err != nil {
		return err
	}
	if err := s.firstPush(root, tag, image); err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	lost, err := layers[1].Digest()
	if err != nil {
		return err
	}
	if err := s.deleteBlob(root, lost); err != nil {
		return err
	}
	ref, err := s.tag(root, tag)
	if err != nil {
		return err
	}
	if _, err := remote.Head(ref, s.options()...); status(err) != http.StatusNotFound {
		return fmt.Errorf("HEAD of half an image: %v, want 404", err)
	}
	s.wire.take()
	if err := remote.Write(ref, image, s.options()...); err != nil {
		return err
	}
	if err := only(s.wire.take(), map[string]int{
		"HEAD manifest 404": 1, "HEAD blob 200": 3, "HEAD blob 404": 1, "POST upload 202": 1,
		"PATCH upload 202": 1, "PUT upload 201": 1, "PUT manifest 201": 1,
	}); err != nil {
		return err
	}
	return s.holds(ref, image)
}

func (s *session) deleteBlob(repository string, digest v1.Hash) error {
	url := fmt.Sprintf("https://%s/v2/%s/blobs/%s", s.registry, repository, digest)
	request, err := http.NewRequest(http.MethodDelete, url, nil)
	if err != nil {
		return err
	}
	config, err := s.auth.Authorization()
	if err != nil {
		return err
	}
	request.SetBasicAuth(config.Username, config.Password)
	response, err := s.wire.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	s.wire.take()
	if response.StatusCode != http.StatusAccepted {
		return fmt.Errorf("DELETE of a blob: %s, want 202", response.Status)
	}
	return nil
}

func discovery(t target) error {
	s, err := t.session(t.writer)
	if err != nil {
		return err
	}
	modules := []string{"console", "prompp", "virtualization"}
	for _, module := range modules {
		image, err := random.Image(32, 1)
		if err != nil {
			return err
		}
		if err := s.firstPush(root+"/modules", module, image); err != nil {
			return err
		}
	}
	repository, err := name.NewRepository(s.registry + "/" + root + "/modules")
	if err != nil {
		return err
	}
	tags, err := remote.List(repository, s.options()...)
	if err != nil {
		return err
	}
	if !slices.Equal(tags, modules) {
		return fmt.Errorf("tags %v, want %v", tags, modules)
	}
	return nil
}

func subject(t target) error {
	s, err := t.session(t.writer)
	if err != nil {
		return err
	}
	image, tag, err := imageWithDigestTag(1, 1_000)
	if err != nil {
		return err
	}
	if err := s.firstPush(root, tag, image); err != nil {
		return err
	}
	descriptor, err := partial.Descriptor(image)
	if err != nil {
		return err
	}
	base, err := random.Image(100, 1)
	if err != nil {
		return err
	}
	// A subject exists only in OCI manifests, the library's random images are Docker's.
	base = mutate.ConfigMediaType(mutate.MediaType(base, types.OCIManifestSchema1), types.OCIConfigJSON)
	attestation, ok := mutate.Subject(base, *descriptor).(v1.Image)
	if !ok {
		return errors.New("an image with a subject is no image any more")
	}
	ref, err := s.tag(root, tag+".att")
	if err != nil {
		return err
	}
	if err := remote.Write(ref, attestation, s.options()...); err != nil {
		return err
	}
	seen := s.wire.take()
	if count(seen, "GET referrers", http.StatusOK) != 1 || count(seen, "PUT manifest", http.StatusCreated) != 1 {
		return fmt.Errorf("want one GET of the referrers and one manifest put: %v", seen)
	}
	index, err := remote.Referrers(ref.Context().Digest(descriptor.Digest.String()), s.options()...)
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	want, err := attestation.Digest()
	if err != nil {
		return err
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest != want {
		return fmt.Errorf("referrers %v, want only %s", manifest.Manifests, want)
	}
	return nil
}

func reader(t target) error {
	s, err := t.session(t.reader)
	if err != nil {
		return err
	}
	ref, err := s.tag(root, "d8WriteCheck")
	if err != nil {
		return err
	}
	image, err := remote.Image(ref, s.options()...)
	if err != nil {
		return err
	}
	if err := validate.Image(image); err != nil {
		return err
	}
	other, err := s.tag(root, "not-allowed")
	if err != nil {
		return err
	}
	s.wire.take()
	err = remote.Write(other, image, s.options()...)
	if code := status(err); code != http.StatusForbidden && code != http.StatusUnauthorized {
		return fmt.Errorf("push of a reader: %v, want 401 or 403", err)
	}
	if seen := s.wire.take(); count(seen, "PUT manifest", http.StatusCreated) != 0 {
		return fmt.Errorf("a reader stored a manifest: %v", seen)
	}
	return nil
}

// imageWithDigestTag makes a random image and the tag that d8 gives to one known only by its digest.
func imageWithDigestTag(layers int64, size int64) (v1.Image, string, error) {
	image, err := random.Image(size, layers)
	if err != nil {
		return nil, "", err
	}
	digest, err := image.Digest()
	return image, digest.Hex, err
}

// status is the HTTP status inside an error of the library, 0 if it has none.
func status(err error) int {
	var refused *transport.Error
	if errors.As(err, &refused) {
		return refused.StatusCode
	}
	return 0
}
