// Command images builds a container image from static binaries, without Docker, a base image or a registry.
//
//	images -o agent.tar -name latchkey-agent:1.0.0 -arch amd64 -entrypoint /agent -user 65532:65532 bin/agent=/agent
//
// Each argument puts one thing into the image's single layer:
//
//	SRC=DEST[:MODE]       the file SRC as DEST; MODE is octal and 0755 or 0644 by default, as SRC is executable or not
//	'->TARGET=DEST'       a symbolic link DEST that points to TARGET; as the first argument it needs -- before it
//	=DEST/[:MODE]         an empty directory; 0755 by default, 1777 suits /tmp
//
// Parents are made as needed, and everything belongs to root. The same inputs give the same digest: entries are sorted and
// all times are SOURCE_DATE_EPOCH (seconds, 0 by default). The archive is an OCI layout that "docker load", "ctr image
// import" and "podman load" read, and the digest that is printed is the one that a registry or containerd shows.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// options are the command line. Labels are the image's, as key=value.
type options struct {
	out, name, arch  string
	entrypoint, user string
	level            int
	labels           map[string]string
	created          time.Time
}

func run(args []string, stdout, stderr io.Writer) error {
	o := options{labels: map[string]string{}}
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.out, "o", "", "archive `file` to write (required)")
	flags.StringVar(&o.name, "name", "", "`name:tag` of the image (required)")
	flags.StringVar(&o.arch, "arch", "amd64", "architecture: amd64 or arm64; the operating system is linux")
	flags.StringVar(&o.entrypoint, "entrypoint", "", "`command` to run, split at spaces")
	flags.StringVar(&o.user, "user", "", "`uid[:gid]` to run as")
	flags.IntVar(&o.level, "level", 9, "gzip `level` of the layer, 0 (fast to build and load) to 9 (small)")
	flags.Func("label", "`key=value`, as often as needed; title and version come from -name", func(s string) error {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return errors.New("want key=value")
		}
		o.labels[key] = value
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := o.complete(); err != nil {
		return err
	}
	entries, err := parseEntries(flags.Args())
	if err != nil {
		return err
	}
	if err := checkBinaries(entries, o.arch); err != nil {
		return err
	}
	if err := checkEntrypoint(entries, o.entrypoint); err != nil {
		return err
	}

	image, err := buildImage(o, entries)
	if err != nil {
		return fmt.Errorf("building %s: %w", o.name, err)
	}
	size, err := writeArchive(o, image)
	if err != nil {
		return fmt.Errorf("writing %s: %w", o.out, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return fmt.Errorf("reading the digest of %s: %w", o.name, err)
	}
	fmt.Fprintf(stdout, "%s %s linux/%s %.1f MB\n", o.name, digest, o.arch, float64(size)/1e6)
	return nil
}

// complete checks the flags and fills in what follows from them.
func (o *options) complete() error {
	if o.out == "" {
		return errors.New("-o is missing: name the archive to write")
	}
	repository, tag, ok := strings.Cut(o.name[strings.LastIndex(o.name, "/")+1:], ":")
	if !ok || repository == "" || tag == "" {
		return fmt.Errorf("-name %q: want name:tag, such as latchkey-agent:1.0.0", o.name)
	}
	if _, ok := machines[o.arch]; !ok {
		return fmt.Errorf("-arch %q is unknown: use amd64 or arm64", o.arch)
	}
	if o.level < 0 || o.level > 9 {
		return fmt.Errorf("-level %d: use 0 to 9", o.level)
	}
	if _, ok := o.labels[labelTitle]; !ok {
		o.labels[labelTitle] = repository
	}
	if _, ok := o.labels[labelVersion]; !ok {
		o.labels[labelVersion] = tag
	}
	o.created = time.Unix(0, 0).UTC()
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970", epoch)
		}
		o.created = time.Unix(seconds, 0).UTC()
	}
	return nil
}

// checkEntrypoint catches the image that only fails when it is started.
func checkEntrypoint(entries []entry, entrypoint string) error {
	if entrypoint == "" {
		return nil
	}
	program := strings.Fields(entrypoint)[0]
	for _, e := range entries {
		if e.name == strings.TrimPrefix(path.Clean(program), "/") {
			return nil
		}
	}
	return fmt.Errorf("-entrypoint %s is not in the image: add SRC=%[1]s", program)
}
