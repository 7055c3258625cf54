package check

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/internal/mutate"
)

func configuration(ctx context.Context, e *env) []Result {
	data, where, problem := e.readConfig(ctx)
	if problem != nil {
		return problem
	}
	config, err := mutate.ParseConfig(data)
	var problems mutate.Problems
	switch {
	case errors.As(err, &problems):
		var bad []Result
		for _, p := range problems {
			bad = append(bad, fail("a running injector keeps the last good one", "%s: %s", where, p)...)
		}
		return bad
	case err != nil:
		return fail("a running injector keeps the last good one", "%s: %v", where, err)
	}
	names := slices.Sorted(maps.Keys(config.Connections))
	if e.Connection != "" && config.Connections[e.Connection] == nil {
		return fail("one of: "+strings.Join(names, ", "), "%s has no connection %q", where, e.Connection)
	}
	e.config = config
	return ok("%s has %s", where, plural(len(names), "connection"))
}

// readConfig reads the operator's configuration, or says why it cannot.
func (e *env) readConfig(ctx context.Context) (data []byte, where string, problem []Result) {
	file := e.ConfigFile
	if _, err := os.Stat(mountedConfig); file == "" && e.inPod && err == nil {
		file = mountedConfig
	}
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, "", fail("correct --config", "%v", err)
		}
		return data, file, nil
	}
	if e.kube == nil {
		return nil, "", notChecked("there is no API server to ask for it; --config names a file")
	}
	where = fmt.Sprintf("ConfigMap %s/%s", e.InjectorNamespace, injectorName)
	found, err := e.kube.CoreV1().ConfigMaps(e.InjectorNamespace).Get(ctx, injectorName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, "", fail("install the chart, name its namespace with --injector-namespace, or give --config", "there is no %s", where)
	case err != nil:
		problem := unread(err, "get", "configmaps "+injectorName+" in namespace "+e.InjectorNamespace)
		problem[0].Text += "; --config names a file instead"
		return nil, "", problem
	}
	text, ok := found.Data[configKey]
	if !ok {
		return nil, "", fail("install the chart again", "%s has no key %s", where, configKey)
	}
	return []byte(text), where, nil
}
