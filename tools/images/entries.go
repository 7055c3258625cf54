package main

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// entry is one file, link or directory of the layer. The name has no leading or final slash.
type entry struct {
	name   string
	kind   byte   // tar.TypeReg, tar.TypeSymlink or tar.TypeDir
	source string // of a file
	target string // of a link
	mode   int64  // permission bits with setuid, setgid and sticky, as tar has them
}

// parseEntries reads the arguments, adds the parents that they need, and sorts, so that a parent precedes its children.
func parseEntries(args []string) ([]entry, error) {
	if len(args) == 0 {
		return nil, errors.New("nothing to put into the image: give SRC=DEST")
	}
	byName := map[string]entry{}
	for _, arg := range args {
		e, err := parseEntry(arg)
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", arg, err)
		}
		if _, ok := byName[e.name]; ok {
			return nil, fmt.Errorf("argument %q: /%s is given twice", arg, e.name)
		}
		byName[e.name] = e
	}
	entries := make([]entry, 0, len(byName))
	for _, e := range byName {
		entries = append(entries, e)
	}
	for _, e := range slices.Clone(entries) {
		for dir := path.Dir(e.name); dir != "."; dir = path.Dir(dir) {
			parent, ok := byName[dir]
			if ok && parent.kind == tar.TypeReg {
				return nil, fmt.Errorf("/%s is a file and cannot hold /%s", dir, e.name)
			}
			if !ok {
				parent = entry{name: dir, kind: tar.TypeDir, mode: 0o755}
				byName[dir] = parent
				entries = append(entries, parent)
			}
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

func parseEntry(arg string) (entry, error) {
	source, dest, ok := strings.Cut(arg, "=")
	if !ok {
		return entry{}, errors.New("want SRC=DEST[:MODE], ->TARGET=DEST or =DEST/[:MODE]")
	}
	dest, modeText, hasMode := strings.Cut(dest, ":")
	e := entry{name: strings.TrimPrefix(path.Clean("/"+dest), "/"), kind: tar.TypeReg, source: source}
	if e.name == "" {
		return entry{}, errors.New("the destination is empty: name a path in the image")
	}
	switch target, isLink := strings.CutPrefix(source, "->"); {
	case isLink && hasMode:
		return entry{}, errors.New("a link has no mode")
	case isLink && target == "":
		return entry{}, errors.New("the link has no target: want ->TARGET=DEST")
	case isLink:
		return entry{name: e.name, kind: tar.TypeSymlink, target: target, mode: 0o777}, nil
	case source == "" && !strings.HasSuffix(dest, "/"):
		return entry{}, errors.New("the source is missing; an empty directory is =DEST/")
	case source == "":
		e.kind, e.mode = tar.TypeDir, 0o755
	default:
		info, err := os.Stat(source)
		if err != nil {
			return entry{}, err
		}
		if !info.Mode().IsRegular() {
			return entry{}, fmt.Errorf("%s is not a regular file", source)
		}
		// Only the executable bit counts: the rest depends on the builder's umask.
		e.mode = 0o644
		if info.Mode()&0o100 != 0 {
			e.mode = 0o755
		}
	}
	if hasMode {
		mode, err := strconv.ParseInt(modeText, 8, 64)
		if err != nil || mode < 0 || mode > 0o7777 {
			return entry{}, fmt.Errorf("mode %q: want octal digits up to 7777", modeText)
		}
		e.mode = mode
	}
	return e, nil
}

// machines are the architectures that an image can be for, as its binaries state them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// checkBinaries refuses a binary that could not run in the image: one of another architecture, or one that needs a
// dynamic loader that an empty base does not have.
func checkBinaries(entries []entry, arch string) error {
	for _, e := range entries {
		if e.kind != tar.TypeReg {
			continue
		}
		file, err := elf.Open(e.source)
		if err != nil {
			continue // not a binary; a file that cannot be read is reported where its content is
		}
		machine, static := file.Machine, true
		for _, p := range file.Progs {
			static = static && p.Type != elf.PT_INTERP
		}
		file.Close()
		if machine != machines[arch] {
			return fmt.Errorf("%s is a %s binary in an image for %s: build it with GOARCH=%[3]s", e.source, machine, arch)
		}
		if !static {
			return fmt.Errorf("%s is dynamically linked and the image has no loader: build it with CGO_ENABLED=0", e.source)
		}
	}
	return nil
}
