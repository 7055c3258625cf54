package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Labels of the OCI image specification that every image carries.
const (
	labelTitle   = "org.opencontainers.image.title"
	labelVersion = "org.opencontainers.image.version"
)

// buildImage makes an OCI image of one layer on an empty base.
func buildImage(o options, entries []entry) (v1.Image, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		reader, writer := io.Pipe()
		go func() { writer.CloseWithError(writeLayer(writer, entries, o.created)) }()
		return reader, nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(o.level), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: o.created}, CreatedBy: "images"},
	})
	if err != nil {
		return nil, fmt.Errorf("adding the layer: %w", err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the empty configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS = "linux" // containerd leaves out an image without them when it imports
	config.Architecture = o.arch
	config.Created = v1.Time{Time: o.created}
	config.Config = v1.Config{
		Entrypoint: strings.Fields(o.entrypoint),
		User:       o.user,
		Labels:     o.labels,
	}
	return mutate.ConfigFile(image, config)
}

// writeLayer writes the entries as a tar stream that depends on nothing but them and their files' contents.
func writeLayer(w io.Writer, entries []entry, created time.Time) error {
	archive := tar.NewWriter(w)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.target, Mode: e.mode, ModTime: created}
		if e.kind == tar.TypeDir {
			header.Name += "/"
		}
		if e.kind != tar.TypeReg {
			if err := archive.WriteHeader(header); err != nil {
				return err
			}
			continue
		}
		if err := writeFile(archive, header, e.source); err != nil {
			return err
		}
	}
	return archive.Close()
}

func writeFile(archive *tar.Writer, header *tar.Header, source string) error {
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(archive, file); err != nil {
		return fmt.Errorf("copying %s: %w", source, err)
	}
	return nil
}

// writeArchive writes the image as an OCI layout in a tar file, with the manifest.json that Docker looks for beside it,
// and returns the size of the file in bytes. The file appears whole or not at all.
func writeArchive(o options, image v1.Image) (size int64, err error) {
	temp, err := os.CreateTemp(filepath.Dir(o.out), filepath.Base(o.out)+".*")
	if err != nil {
		return 0, err
	}
	defer os.Remove(temp.Name()) // gone already when all went well
	defer temp.Close()

	a := layout{tar: tar.NewWriter(temp), created: o.created}
	if err := a.image(image, o); err != nil {
		return 0, err
	}
	if err := a.tar.Close(); err != nil {
		return 0, err
	}
	info, err := temp.Stat()
	if err != nil {
		return 0, err
	}
	if err := temp.Chmod(0o644); err != nil {
		return 0, err
	}
	if err := temp.Close(); err != nil {
		return 0, err
	}
	return info.Size(), os.Rename(temp.Name(), o.out)
}

// layout writes the files of an OCI image layout.
type layout struct {
	tar     *tar.Writer
	created time.Time
}

func (l layout) image(image v1.Image, o options) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	rawManifest, err := image.RawManifest()
	if err != nil {
		return err
	}
	rawConfig, err := image.RawConfigFile()
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}

	if err := l.json("oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}); err != nil {
		return err
	}
	if err := l.json("index.json", v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: manifest.MediaType,
			Digest:    digest,
			Size:      int64(len(rawManifest)),
			Platform:  &v1.Platform{OS: "linux", Architecture: o.arch},
			Annotations: map[string]string{
				"io.containerd.image.name":          fullName(o.name),
				"org.opencontainers.image.ref.name": o.name[strings.LastIndex(o.name, ":")+1:],
			},
		}},
	}); err != nil {
		return err
	}
	var layerFiles []string
	for i, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		descriptor := manifest.Layers[i]
		layerFiles = append(layerFiles, blob(descriptor.Digest))
		if err := l.file(blob(descriptor.Digest), descriptor.Size, content); err != nil {
			return err
		}
		if err := content.Close(); err != nil {
			return err
		}
	}
	if err := l.file(blob(manifest.Config.Digest), manifest.Config.Size, bytes.NewReader(rawConfig)); err != nil {
		return err
	}
	if err := l.file(blob(digest), int64(len(rawManifest)), bytes.NewReader(rawManifest)); err != nil {
		return err
	}
	return l.json("manifest.json", []map[string]any{{
		"Config": blob(manifest.Config.Digest), "RepoTags": []string{o.name}, "Layers": layerFiles,
	}})
}

func (l layout) json(name string, value any) error {
	content, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return l.file(name, int64(len(content)), bytes.NewReader(content))
}

func (l layout) file(name string, size int64, content io.Reader) error {
	header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: l.created}
	if err := l.tar.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(l.tar, content)
	return err
}

func blob(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

// fullName is the name under which containerd files an image, and under which the kubelet looks it up: a name without a
// registry belongs to docker.io, and one without a folder to docker.io/library.
func fullName(name string) string {
	first, _, hasFolder := strings.Cut(name, "/")
	switch {
	case !hasFolder:
		return "docker.io/library/" + name
	case strings.ContainsAny(first, ".:") || first == "localhost":
		return name
	}
	return "docker.io/" + name
}
