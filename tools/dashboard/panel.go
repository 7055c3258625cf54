package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// dashboard is the part of Grafana's JSON that is drawn.
type dashboard struct {
	Title  string  `json:"title"`
	Panels []panel `json:"panels"`
}

type panel struct {
	Type    string `json:"type"`
	Title   string `json:"title"`
	GridPos struct {
		X, Y, W, H int
	} `json:"gridPos"`
	FieldConfig struct {
		Defaults struct {
			Unit       string `json:"unit"`
			Decimals   *int   `json:"decimals"`
			Thresholds struct {
				Steps []step `json:"steps"`
			} `json:"thresholds"`
		} `json:"defaults"`
	} `json:"fieldConfig"`
	Targets []target `json:"targets"`
}

type step struct {
	Color string   `json:"color"`
	Value *float64 `json:"value"` // nil is below all others
}

type target struct {
	Expr         string `json:"expr"`
	LegendFormat string `json:"legendFormat"`
}

// rateInterval stands for Grafana's $__rate_interval: four scrapes.
const rateInterval = "1m"

func (t target) query() string { return strings.ReplaceAll(t.Expr, "$__rate_interval", rateInterval) }

func readDashboard(file string) (*dashboard, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading dashboard: %w", err)
	}
	var d dashboard
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("reading dashboard %s: %w", file, err)
	}
	return &d, nil
}

// drawing is what a panel shows: one number, or lines.
type drawing struct {
	value float64
	lines []line
}

type line struct {
	name   string
	points []model.SamplePair
}

func (p panel) ask(ctx context.Context, prometheus promv1.API, within promv1.Range) (drawing, error) {
	var d drawing
	for _, t := range p.Targets {
		if p.Type == "stat" {
			v, _, err := prometheus.Query(ctx, t.query(), within.End)
			if err != nil {
				return d, fmt.Errorf("asking Prometheus: %w", err)
			}
			vector, ok := v.(model.Vector)
			if !ok || len(vector) != 1 {
				return d, fmt.Errorf("%s has no single value: %v", t.Expr, v)
			}
			d.value = float64(vector[0].Value)
			continue
		}
		v, _, err := prometheus.QueryRange(ctx, t.query(), within)
		if err != nil {
			return d, fmt.Errorf("asking Prometheus: %w", err)
		}
		matrix, ok := v.(model.Matrix)
		if !ok || len(matrix) == 0 {
			return d, fmt.Errorf("%s has no values", t.Expr)
		}
		for _, stream := range matrix {
			d.lines = append(d.lines, line{legend(t.LegendFormat, stream.Metric), stream.Values})
		}
	}
	return d, nil
}

var label = regexp.MustCompile(`{{\s*(\w+)\s*}}`)

// legend fills in the labels of a line, as Grafana does.
func legend(format string, m model.Metric) string {
	return label.ReplaceAllStringFunc(format, func(s string) string {
		return string(m[model.LabelName(label.FindStringSubmatch(s)[1])])
	})
}
