package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"sigs.k8s.io/yaml"
)

const dashboardFile = "../../deploy/webhook/dashboards/injector.json"

// alerts are the groups of all files of alerts.
func alerts(t *testing.T) (groups []rulefmt.RuleGroup) {
	t.Helper()
	files, err := filepath.Glob("../../deploy/webhook/alerts/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d files of alerts: %v", len(files), err)
	}
	for _, file := range files {
		in, errs := rulefmt.ParseFile(file, false, model.UTF8Validation, parser.NewParser(parser.Options{}), nil)
		if len(errs) > 0 {
			t.Fatalf("%s: %v", file, errs)
		}
		groups = append(groups, in.Groups...)
	}
	return groups
}

func TestAlertsAreValid(t *testing.T) {
	var names []string
	for _, g := range alerts(t) {
		for _, r := range g.Rules {
			names = append(names, r.Alert)
			if s := r.Labels["severity"]; s != "critical" && s != "warning" {
				t.Errorf("%s has severity %q (critical, warning)", r.Alert, s)
			}
			if r.For == 0 {
				t.Errorf("%s fires at once: a rollout would page somebody", r.Alert)
			}
			if !strings.HasSuffix(r.Annotations["summary"], ".") {
				t.Errorf("%s has no summary", r.Alert)
			}
			// What to do, not only where to look.
			if !regexp.MustCompile(`kubectl|helm|injector check`).MatchString(r.Annotations["runbook"]) {
				t.Errorf("%s has no command in its runbook", r.Alert)
			}
		}
	}
	for _, want := range []string{"LatchkeyInjectorDown", "LatchkeyInjectorNotRedundant", "LatchkeyInjectorFailing", "LatchkeyInjectorSlow",
		"LatchkeyInjectorCertificateExpiring", "LatchkeyInjectorCABundleMismatch", "LatchkeyInjectorConfigRejected",
		"LatchkeyAgentStale", "LatchkeyAgentSecretMissing", "LatchkeyAgentWithoutToken", "LatchkeyAgentCannotLogIn", "LatchkeyAgentNotifyFailing",
		"LatchkeyAuthconfigNotKeeping", "LatchkeyAuthconfigFailing", "LatchkeyAuthconfigReviewerTokenEnding", "LatchkeyAuthconfigRoleInvalid", "LatchkeyAuthconfigRefuses"} {
		if !slices.Contains(names, want) {
			t.Errorf("there is no alert %s", want)
		}
	}
}

// TestQueriesAskForWhatIsDocumented parses each query of alerts and dashboard:
// its metrics are in docs/metrics.md, or of every process, and have the labels
// that it asks for.
func TestQueriesAskForWhatIsDocumented(t *testing.T) {
	documented := documentedMetrics(t)
	target := []string{model.MetricNameLabel, "job", "namespace", "pod", "le"} // of the scrape, and of every histogram
	for where, query := range queries(t) {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
		if err != nil {
			t.Errorf("%s: %v in %s", where, err, query)
			continue
		}
		var has []string
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			if v, ok := node.(*parser.VectorSelector); ok {
				own, ok := documented[strings.TrimSuffix(v.Name, "_bucket")]
				if !ok {
					t.Errorf("%s: docs/metrics.md has no %s", where, v.Name)
				}
				has = append(slices.Clone(target), own...)
				for _, m := range v.LabelMatchers {
					if !slices.Contains(has, m.Name) {
						t.Errorf("%s: %s has no label %s", where, v.Name, m.Name)
					}
				}
			}
			return nil
		})
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			if a, ok := node.(*parser.AggregateExpr); ok {
				for _, name := range a.Grouping {
					if !slices.Contains(has, name) {
						t.Errorf("%s: groups by label %s, which there is not", where, name)
					}
				}
			}
			return nil
		})
	}
}

// TestMonitoringObjectsAreOfTheirTypes decodes what the chart renders for the
// Prometheus operator as that operator does, but strictly.
func TestMonitoringObjectsAreOfTheirTypes(t *testing.T) {
	renderings, err := filepath.Glob("../../test/chart/testdata/*/want.yaml")
	if err != nil || len(renderings) < 5 {
		t.Fatalf("%d renderings of the chart: %v", len(renderings), err)
	}
	kinds := map[string]any{"ServiceMonitor": new(monitoringv1.ServiceMonitor), "PrometheusRule": new(monitoringv1.PrometheusRule)}
	seen := map[string]bool{}
	for _, file := range renderings {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, object := range strings.Split(string(data), "\n---\n") {
			var meta struct {
				APIVersion string `json:"apiVersion"`
				Kind       string `json:"kind"`
			}
			if err := yaml.Unmarshal([]byte(object), &meta); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if meta.APIVersion != "monitoring.coreos.com/v1" {
				continue
			}
			seen[meta.Kind] = true
			into, ok := kinds[meta.Kind]
			if !ok {
				t.Errorf("%s: unknown kind %s", file, meta.Kind)
			} else if err := yaml.UnmarshalStrict([]byte(object), into); err != nil {
				t.Errorf("%s: %s: %v", file, meta.Kind, err)
			}
		}
	}
	for kind := range kinds {
		if !seen[kind] {
			t.Errorf("no rendering has a %s", kind)
		}
	}
}

// queries are all that alerts and dashboard ask, by where.
func queries(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, g := range alerts(t) {
		for _, r := range g.Rules {
			all["alert "+r.Alert] = r.Expr
		}
	}
	d, err := readDashboard(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all["panel "+p.Title+" "+target.LegendFormat] = target.query()
		}
	}
	return all
}

var tableRow = regexp.MustCompile("(?m)^\\| `(\\w+)` \\| \\w+ \\| ([^|]*) \\|")

// documentedMetrics are the labels of each metric in docs/metrics.md, and of
// those that Prometheus' client has for every process.
func documentedMetrics(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{"process_resident_memory_bytes": nil, "process_cpu_seconds_total": nil}
	for _, m := range tableRow.FindAllStringSubmatch(string(data), -1) {
		var names []string
		for _, name := range strings.Split(m[2], ",") {
			if name = strings.Trim(name, " `"); name != "" {
				names = append(names, name)
			}
		}
		all[m[1]] = names
	}
	return all
}
