// Command bench measures what Latchkey costs: `make bench`. Each figure stands
// beside what it is compared with in the same run; times are medians, since
// machines are noisy. Arguments choose what is measured. What needs no cluster,
// such as the comparison with Vault's own agent, is in this package's tests.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/latchkey-dev/latchkey/test/cluster"
	"github.com/latchkey-dev/latchkey/test/harness"
)

const (
	namespace = "bench"
	runs      = 11
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == decodeOnly {
		fmt.Fprintln(os.Stderr, "bench:", serveDecodeOnly(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	err := measureAll(ctx, os.Args[1:])
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measureAll measures what the arguments name.
func measureAll(ctx context.Context, names []string) error {
	measures := map[string]func(context.Context) error{"pods": pods, "admission": admission}
	for _, name := range names {
		if measures[name] == nil {
			return fmt.Errorf("%q is not measured (%s)", name, strings.Join(slices.Sorted(maps.Keys(measures)), ", "))
		}
	}
	for _, name := range names {
		if err := measures[name](ctx); err != nil {
			return err
		}
	}
	return nil
}

// pods measures on the cluster what an agent costs its pod.
func pods(ctx context.Context) error {
	c, err := harness.Open()
	if err != nil {
		return err
	}
	if err := c.Install(ctx); err != nil {
		return err
	}
	b := &bench{c}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	for _, measure := range []func(context.Context) error{b.size, b.podStart, b.memory} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	return c.DeleteNamespace(ctx, namespace)
}

type bench struct{ *harness.Cluster }

func figure(what, value string) { fmt.Printf("%-58s %s\n", what, value) }

func (b *bench) prepare(ctx context.Context) error {
	if err := b.DeleteNamespace(ctx, namespace); err != nil {
		return err
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := b.Kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating namespace %s: %w", namespace, err)
	}
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "app"}}
	if _, err := b.Kube.CoreV1().ServiceAccounts(namespace).Create(ctx, sa, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("creating ServiceAccount app: %w", err)
	}
	for i := range 10 {
		path := fmt.Sprintf("bench/app%d", i)
		if _, err := b.Root.KVv2("kv").Put(ctx, path, map[string]any{"username": "app", "password": "first"}); err != nil {
			return fmt.Errorf("writing kv/%s: %w", path, err)
		}
	}
	return b.WriteRole(ctx, cluster.Role{
		Name: "bench_app", Namespaces: []string{namespace}, ServiceAccounts: []string{"app"}, Audience: harness.Audience,
		Policy: `path "kv/data/bench/*" { capabilities = ["read"] }`, TTL: time.Hour,
	})
}

// size is that of the program as it ships.
func (b *bench) size(context.Context) error {
	info, err := os.Stat(filepath.Join(harness.Checkout(), "dist", runtime.GOARCH, "agent"))
	if err != nil {
		return fmt.Errorf("measuring the agent's binary: %w", err)
	}
	figure("agent binary, stripped", fmt.Sprintf("%.2f MB", float64(info.Size())/1e6))
	return nil
}

// manifest is a pod whose app prints one line; with files it is annotated.
func manifest(name string, files int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n", name)
	if files > 0 {
		b.WriteString("  annotations:\n    latchkey.dev/inject: \"true\"\n    latchkey.dev/files: |\n")
		for i := range files {
			fmt.Fprintf(&b, "      - {path: app%d.env, secret: kv/bench/app%d, format: env}\n", i, i)
		}
	}
	b.WriteString("spec:\n  serviceAccountName: app\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    image: busybox:box\n" +
		"    command: [sh, -c, \"echo started; trap 'exit 0' TERM; sleep 86400 & wait\"]\n")
	return b.String()
}

// A kind of pod, by the files that it wants, and what was measured of it.
type kind struct {
	files     int
	firstLine []time.Duration // from the pod's creation to its app's first line
	ready     []time.Duration // from the agent's start to its files
}

// podStart takes pods in turn, so that what else the machine does meets all kinds.
func (b *bench) podStart(ctx context.Context) error {
	bare, one, ten := &kind{}, &kind{files: 1}, &kind{files: 10}
	for i := range runs {
		fmt.Fprintf(os.Stderr, "starting pods, round %d of %d\n", i+1, runs)
		for _, k := range []*kind{bare, one, ten} {
			if err := b.start(ctx, fmt.Sprintf("start-%d-%d", k.files, i), k); err != nil {
				return err
			}
		}
	}
	show := func(what string, times []time.Duration) {
		figure(what, fmt.Sprintf("%s  (%s to %s)", ms(median(times)), ms(slices.Min(times)), ms(slices.Max(times))))
	}
	show(fmt.Sprintf("pod created to the app's first line, bare, median of %d", runs), bare.firstLine)
	show("… with one file", one.firstLine)
	show("… with ten files", ten.firstLine)
	figure("overhead of one file", ms(median(one.firstLine)-median(bare.firstLine)))
	show("agent started to its one file published", one.ready)
	show("… to its ten files", ten.ready)
	return nil
}

// start starts a pod and adds to its kind what the container runtime and the
// agent stamped.
func (b *bench) start(ctx context.Context, name string, k *kind) error {
	began := time.Now()
	if _, err := b.Create(ctx, namespace, manifest(name, k.files), false); err != nil {
		return fmt.Errorf("creating pod %s: %w", name, err)
	}
	if _, err := b.WaitPod(ctx, namespace, name, "ready", harness.Ready); err != nil {
		return err
	}
	if _, err := b.WaitLog(ctx, namespace, name, "app", "started"); err != nil {
		return err
	}
	log, err := b.Kube.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{Container: "app", Timestamps: true}).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("reading the log of %s: %w", name, err)
	}
	stamp, _, _ := strings.Cut(string(log), " ")
	at, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		return fmt.Errorf("reading the time of the first line of %s: %w", name, err)
	}
	k.firstLine = append(k.firstLine, at.Sub(began))
	if k.files > 0 {
		ready, err := b.agentReady(ctx, name)
		if err != nil {
			return err
		}
		k.ready = append(k.ready, ready)
	}
	if err := b.Kube.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting pod %s: %w", name, err)
	}
	return b.WaitGone(ctx, namespace, name)
}

// agentReady is what the agent's log says of its start.
func (b *bench) agentReady(ctx context.Context, pod string) (time.Duration, error) {
	log, err := b.WaitLog(ctx, namespace, pod, "latchkey-agent", `"ready"`)
	if err != nil {
		return 0, err
	}
	for text := range strings.Lines(log) {
		var line struct{ Msg, After string }
		if json.Unmarshal([]byte(text), &line) == nil && line.Msg == "ready" {
			return time.ParseDuration(line.After)
		}
	}
	return 0, fmt.Errorf("the agent's log of %s does not say when it was ready:\n%s", pod, log)
}

// memory looks at an agent with ten files that has come to rest. It needs the
// agent's process and the node's name, which only the box tells.
func (b *bench) memory(ctx context.Context) error {
	if !b.IsBox() {
		fmt.Fprintln(os.Stderr, "not measuring memory: the cluster is not the box")
		return nil
	}
	if _, err := b.Create(ctx, namespace, manifest("memory", 10), false); err != nil {
		return fmt.Errorf("creating a pod: %w", err)
	}
	pod, err := b.WaitPod(ctx, namespace, "memory", "ready", harness.Ready)
	if err != nil {
		return err
	}
	pid, err := harness.ProcessOf(pod, "latchkey-agent")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "waiting for the agent to come to rest")
	// The kubelet measures every 10 s or so, and says when.
	working, err := b.workingSet(ctx, "memory", time.Now().Add(20*time.Second))
	if err != nil {
		return err
	}
	u, err := usageOf(pid)
	if err != nil {
		return err
	}
	figure("agent with ten files, VmRSS", fmt.Sprintf("%.1f MiB", u.rss))
	figure("… RssAnon", fmt.Sprintf("%.1f MiB", u.anon))
	figure("… its container's working set, by the kubelet", fmt.Sprintf("%.1f MiB", float64(working)/(1<<20)))
	return nil
}

// workingSet is what the kubelet measured of the agent's container after the
// given time, in bytes.
func (b *bench) workingSet(ctx context.Context, pod string, after time.Time) (uint64, error) {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		raw, err := b.Kube.CoreV1().RESTClient().Get().Resource("nodes").Name(cluster.NodeName).SubResource("proxy").Suffix("stats/summary").DoRaw(ctx)
		if err != nil {
			return 0, fmt.Errorf("asking the kubelet for its statistics: %w", err)
		}
		var summary struct {
			Pods []struct {
				PodRef     struct{ Name, Namespace string }
				Containers []struct {
					Name   string
					Memory struct {
						Time            time.Time
						WorkingSetBytes uint64
					}
				}
			}
		}
		if err := json.Unmarshal(raw, &summary); err != nil {
			return 0, fmt.Errorf("reading the kubelet's statistics: %w", err)
		}
		for _, p := range summary.Pods {
			for _, c := range p.Containers {
				if p.PodRef.Namespace == namespace && p.PodRef.Name == pod && c.Name == "latchkey-agent" && c.Memory.Time.After(after) {
					return c.Memory.WorkingSetBytes, nil
				}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("waiting for the kubelet to measure %s: %w", pod, ctx.Err())
		}
	}
}

func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
