// Testimages writes the images that the interop tests push and pull, as OCI image layouts. It needs no
// network, and the same call writes the same bytes on every machine.
//
//	testimages DIR
//
// DIR/image has one image of five layers, from a hundred bytes to 12 MiB. DIR/index has an image
// index of two platforms that share a layer, one of them with the image too.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	tag          = "v1"
)

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    *platform         `json:"platform,omitempty"`
}

type layer struct {
	descriptor
	diffID string
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: testimages DIR")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "testimages:", err)
		os.Exit(1)
	}
}

func write(dir string) error {
	single := layout(filepath.Join(dir, "image"))
	image, err := single.image("amd64", []int{100, 3_000, 40_000, 5 << 20, 12 << 20})
	if err != nil {
		return err
	}
	if err := single.finish(image); err != nil {
		return err
	}

	multi := layout(filepath.Join(dir, "index"))
	var children []descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		child, err := multi.image(arch, []int{3_000, 20_000 + len(arch), 2<<20 + 7*len(children)})
		if err != nil {
			return err
		}
		child.Platform = &platform{Architecture: arch, OS: "linux"}
		children = append(children, child)
	}
	index, err := multi.document(typeIndex, map[string]any{
		"schemaVersion": 2, "mediaType": typeIndex, "manifests": children,
	})
	if err != nil {
		return err
	}
	return multi.finish(index)
}

// layout is the folder of one OCI image layout.
type layout string

// image writes an image with one layer per size and returns the descriptor of its manifest.
func (l layout) image(arch string, sizes []int) (descriptor, error) {
	var layers []descriptor
	var diffIDs []string
	for _, size := range sizes {
		made, err := l.layer(size)
		if err != nil {
			return descriptor{}, err
		}
		layers = append(layers, made.descriptor)
		diffIDs = append(diffIDs, made.diffID)
	}
	config, err := l.document(typeConfig, map[string]any{
		"architecture": arch, "os": "linux", "created": "2026-01-01T00:00:00Z",
		"config": map[string]any{"Cmd": []string{"/none"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	if err != nil {
		return descriptor{}, err
	}
	return l.document(typeManifest, map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest, "config": config, "layers": layers,
	})
}

// layer writes a gzipped tar with one file of size pseudo-random bytes, the same for the same size.
func (l layout) layer(size int) (layer, error) {
	var seed [32]byte
	copy(seed[:], fmt.Sprintf("d8-registry layer %d", size))
	content := make([]byte, size)
	if _, err := io.ReadFull(rand.NewChaCha8(seed), content); err != nil {
		return layer{}, err
	}

	var plain bytes.Buffer
	archive := tar.NewWriter(&plain)
	header := &tar.Header{
		Name: fmt.Sprintf("layer-%d", size), Mode: 0o644, Size: int64(size),
		ModTime: time.Unix(1_767_225_600, 0), Format: tar.FormatUSTAR,
	}
	if err := archive.WriteHeader(header); err != nil {
		return layer{}, err
	}
	if _, err := archive.Write(content); err != nil {
		return layer{}, err
	}
	if err := archive.Close(); err != nil {
		return layer{}, err
	}

	var packed bytes.Buffer
	// The content can't be compressed; storing it makes the bytes independent of the compressor.
	writer, err := gzip.NewWriterLevel(&packed, gzip.NoCompression)
	if err != nil {
		return layer{}, err
	}
	if _, err := writer.Write(plain.Bytes()); err != nil {
		return layer{}, err
	}
	if err := writer.Close(); err != nil {
		return layer{}, err
	}
	stored, err := l.blob(typeLayer, packed.Bytes())
	return layer{descriptor: stored, diffID: digest(plain.Bytes())}, err
}

func (l layout) document(mediaType string, value any) (descriptor, error) {
	content, err := json.Marshal(value)
	if err != nil {
		return descriptor{}, err
	}
	return l.blob(mediaType, content)
}

func (l layout) blob(mediaType string, content []byte) (descriptor, error) {
	name := digest(content)
	folder := filepath.Join(string(l), "blobs", "sha256")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return descriptor{}, err
	}
	err := os.WriteFile(filepath.Join(folder, name[len("sha256:"):]), content, 0o644)
	return descriptor{MediaType: mediaType, Digest: name, Size: len(content)}, err
}

// finish writes index.json and oci-layout, and the digest of the image to a file `digest`.
func (l layout) finish(image descriptor) error {
	image.Annotations = map[string]string{"org.opencontainers.image.ref.name": tag}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": typeIndex, "manifests": []descriptor{image},
	})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"index.json": index,
		"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
		"digest":     []byte(image.Digest),
	} {
		if err := os.WriteFile(filepath.Join(string(l), name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}
