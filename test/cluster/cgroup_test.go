package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEnableControllers(t *testing.T) {
	for _, test := range []struct{ name, available, want, wantErr string }{
		{"all", "cpuset cpu io memory hugetlb pids rdma misc", "+cpu +cpuset +hugetlb +memory +pids", ""},
		{"a kernel without huge pages", "cpuset cpu io memory pids", "+cpu +cpuset +memory +pids", ""},
		{"memory turned off at boot", "cpuset cpu io pids", "", "controller memory: the kernel does not offer it"},
		{"nothing passed on to a container", "", "", "controller cpu: the kernel does not offer it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			write := func(name, text string) {
				if err := writeFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write("cgroup.controllers", test.available+"\n")
			write("cgroup.subtree_control", "")
			write("box/cgroup.subtree_control", "")
			err := enableControllers(root, "box")
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("got error %v, want one with %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, group := range []string{"", "box"} {
				got, err := os.ReadFile(filepath.Join(root, group, "cgroup.subtree_control"))
				if err != nil || string(got) != test.want {
					t.Errorf("group %q: got %q (%v), want %q", group, got, err, test.want)
				}
			}
		})
	}
}
