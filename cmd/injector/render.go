package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/latchkey-dev/latchkey/internal/cli"
	"github.com/latchkey-dev/latchkey/internal/mutate"
	"github.com/latchkey-dev/latchkey/internal/mutate/manifest"
)

// errProblems has been explained on standard error already.
var errProblems = errors.New("some manifests are wrong")

func render(_ context.Context, args []string, std cli.Streams) error {
	var files []string
	fs := newFlags("render", "render -f FILE|FOLDER|- [FLAGS]\nPrints what injection makes of manifests.", std)
	fs.Func("f", "`FILE` or folder with manifests, or - for standard input; may be repeated", func(s string) error {
		files = append(files, s)
		return nil
	})
	configFile := fs.String("config", "", "the operator's configuration, a YAML `FILE` (default: built in)")
	namespace := fs.String("namespace", "", "`NAMESPACE` of all objects (default: their own, or else default)")
	format := fs.String("o", "yaml", "yaml, json, or diff for what is added")
	if err := cli.Parse(fs, args); err != nil {
		return err
	}
	print, ok := map[string]func(io.Writer, []manifest.Document) error{"yaml": printYAML, "json": printJSON, "diff": printDiff}[*format]
	switch {
	case !ok:
		return cli.WrongUsage(fs, "-o is %q (yaml, json, diff)", *format)
	case len(files) == 0:
		return cli.WrongUsage(fs, "-f is missing (a file, a folder, or - for standard input)")
	}
	cfg := mutate.DefaultConfig()
	if *configFile != "" {
		data, err := os.ReadFile(*configFile)
		if err != nil {
			return fmt.Errorf("reading operator's configuration: %w", err)
		}
		if cfg, err = mutate.ParseConfig(data); err != nil {
			return fmt.Errorf("reading operator's configuration %s: %w", *configFile, err)
		}
	}
	docs, err := readManifests(files, std.In, *namespace, cfg)
	good := report(std.Err, docs)
	if *configFile == "" && wanted(docs) {
		fmt.Fprintln(std.Err, builtInHint)
	}
	switch {
	case err != nil:
		return err
	case len(docs) == 0:
		return errors.New("no manifests in what was read (a Pod, Deployment, Job, …)")
	case !good:
		return errProblems
	}
	return print(std.Out, docs)
}

// builtInHint says what a result may lack that is not the cluster's.
const builtInHint = `hint: rendered with the built-in defaults; --config takes the operator's file, which the chart keeps in the cluster:
  kubectl -n latchkey get configmap latchkey-injector -o jsonpath='{.data.config\.yaml}'`

// wanted tells whether any object asks for an agent.
func wanted(docs []manifest.Document) bool {
	for _, d := range docs {
		for _, o := range d.Objects {
			if o.Decision != mutate.Skipped {
				return true
			}
		}
	}
	return false
}

// readManifests injects what the files hold, in their order. The error is about
// all that cannot be read, beside which the rest is returned.
func readManifests(names []string, stdin io.Reader, namespace string, cfg *mutate.Config) ([]manifest.Document, error) {
	var docs []manifest.Document
	var errs []error
	for _, name := range names {
		paths := []string{name}
		if info, err := os.Stat(name); name != "-" && err == nil && info.IsDir() {
			if paths, err = manifestsIn(name); err != nil {
				errs = append(errs, err)
			}
		}
		for _, path := range paths {
			data, err := readFile(path, stdin)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			found, err := manifest.Inject(data, namespace, cfg)
			if err != nil {
				if path == "-" {
					path = "standard input"
				}
				errs = append(errs, fmt.Errorf("%s: %w", path, err))
			}
			docs = append(docs, found...)
		}
	}
	return docs, errors.Join(errs...)
}

func readFile(path string, stdin io.Reader) ([]byte, error) {
	if path == "-" {
		data, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		return data, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading manifests: %w", err)
	}
	return data, nil
}

// manifestsIn lists the manifests of a folder, by name, without those of
// folders below it: as kubectl does.
func manifestsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading manifests: %w", err)
	}
	var paths []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("reading manifests: %s has no .yaml, .yml or .json file", dir)
	}
	return paths, nil
}

// report says what was not injected, why, and what should be known of the
// rest. It is false if something is wrong.
func report(w io.Writer, docs []manifest.Document) bool {
	good := true
	for _, d := range docs {
		for _, o := range d.Objects {
			switch o.Decision {
			case mutate.Denied:
				good = false
				for _, p := range o.Problems {
					fmt.Fprintf(w, "%s: %s\n", o.Name, p)
				}
			case mutate.Skipped:
				fmt.Fprintf(w, "not injected: %s: %s\n", o.Name, o.Reason.Sentence())
			}
			if o.Hint != "" {
				fmt.Fprintf(w, "  hint: %s\n", o.Hint)
			}
			for _, warning := range o.Warnings {
				fmt.Fprintf(w, "warning: %s: %s\n", o.Name, warning)
			}
		}
	}
	return good
}

func printYAML(w io.Writer, docs []manifest.Document) error {
	var b bytes.Buffer
	for i, d := range docs {
		if i > 0 {
			b.WriteString("---\n")
		}
		b.Write(d.Text)
		if !bytes.HasSuffix(d.Text, []byte("\n")) {
			b.WriteByte('\n')
		}
	}
	return write(w, b.Bytes())
}

func printJSON(w io.Writer, docs []manifest.Document) error {
	var b bytes.Buffer
	for _, d := range docs {
		data, err := yaml.YAMLToJSON(d.Text)
		if err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
		if err := json.Indent(&b, data, "", "  "); err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
		b.WriteByte('\n')
	}
	return write(w, b.Bytes())
}

// wide is where the diff cuts lines: it is for reading, and a PEM bundle in
// the agent's configuration is one line of thousands of characters.
const wide = 120

func printDiff(w io.Writer, docs []manifest.Document) error {
	var b bytes.Buffer
	paint := painter(w)
	for _, d := range docs {
		if !d.Changed {
			continue
		}
		names := make([]string, len(d.Objects))
		for i, o := range d.Objects {
			names[i] = o.Name
		}
		name := strings.Join(names, ", ")
		b.WriteString(paint("--- " + name + "\n"))
		b.WriteString(paint("+++ " + name + ", injected\n"))
		for line := range strings.Lines(manifest.Diff(d.Before, d.After)) {
			if r := []rune(line); len(r) > wide {
				line = string(r[:wide-1]) + "…\n"
			}
			b.WriteString(paint(line))
		}
	}
	return write(w, b.Bytes())
}

// painter colours the lines of a diff, if they go to a terminal whose user has
// nothing against it (no-color.org).
func painter(w io.Writer) func(string) string {
	f, ok := w.(*os.File)
	if ok {
		info, err := f.Stat()
		ok = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return func(line string) string { return line }
	}
	return func(line string) string {
		colour := ""
		switch {
		case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "):
			colour = "\x1b[1m"
		case strings.HasPrefix(line, "@@"):
			colour = "\x1b[36m"
		case strings.HasPrefix(line, "+"):
			colour = "\x1b[32m"
		case strings.HasPrefix(line, "-"):
			colour = "\x1b[31m"
		default:
			return line
		}
		return colour + strings.TrimSuffix(line, "\n") + "\x1b[0m\n"
	}
}

func write(w io.Writer, data []byte) error {
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	return nil
}
