package agent

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"sync"

	"github.com/latchkey-dev/latchkey/internal/render"
)

// location is where a secret lies in Vault's API.
type location struct {
	path  string
	query url.Values
	mount string // "" where it was not asked for
	kv2   bool   // the path is that of a KV v2 secret's data
	list  bool   // of the names below it
}

// resolve turns what a pod's author writes into the path of the API: on a KV
// v2 mount kv/app and kv/data/app are the same secret.
func (r *round) resolve(q render.Request) (location, error) {
	p, query, err := render.ParsePath(q.Path)
	if err != nil {
		return location{}, &Problem{Act: true, Text: err.Error()}
	}
	at := location{path: p, query: query, list: q.List}
	switch q.KV {
	case 1:
		return at, nil
	case 2:
		// Nobody asked Vault where the mount ends: what has no data/ in it is
		// taken to lie on a mount of one name.
		if mount, _, ok := strings.Cut(p, "/data/"); ok {
			at.mount = mount + "/"
		} else {
			mount, _, _ := strings.Cut(p, "/")
			at.mount = mount + "/"
		}
	default:
		m, err := r.mountOf(p)
		if err != nil {
			return location{}, err
		}
		at.mount = m.path
		if !m.kv2 {
			return at, nil
		}
	}
	rest := strings.TrimSuffix(strings.TrimPrefix(p+"/", at.mount), "/")
	kind, below, _ := strings.Cut(rest, "/")
	switch {
	case kind == "metadata", kind == "subkeys":
		return at, nil
	case at.list && kind == "data": // names lie beside the data
		at.path = strings.TrimSuffix(at.mount+"metadata/"+below, "/")
	case at.list:
		at.path = strings.TrimSuffix(at.mount+"metadata/"+rest, "/")
	case kind == "data":
		at.kv2 = true
	default:
		at.kv2, at.path = true, at.mount+"data/"+rest
	}
	return at, nil
}

// mount is one engine of Vault.
type mount struct {
	path string // with a final slash
	kv2  bool
}

// mounts remembers what Vault said of its mounts. A question that failed is
// asked again: taking a KV v2 mount for another would read the wrong path.
type mounts struct {
	mu    sync.Mutex
	known map[string]mount
}

func (m *mounts) find(p string) (mount, bool) {
	for at := p; at != "."; at = path.Dir(at) {
		if found, ok := m.known[at+"/"]; ok {
			return found, true
		}
	}
	return mount{}, false
}

func (m *mounts) forget(at string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, at)
}

// mountOf asks Vault, once for each mount, what lies at a path. Holding the
// lock while asking makes all others who want the same mount wait for the
// answer.
func (r *round) mountOf(p string) (mount, error) {
	m := &r.agent.mounts
	m.mu.Lock()
	defer m.mu.Unlock()
	if found, ok := m.find(p); ok {
		return found, nil
	}
	if down := r.isDown(); down != nil {
		return mount{}, down
	}
	doing := fmt.Sprintf("asking for the mount of %q", p)
	e := &exchange{}
	s, err := r.session.secrets.Logical().ReadWithContext(watch(r.ctx, e), "sys/internal/ui/mounts/"+p)
	if err != nil {
		problem := r.failed(doing, err, e)
		if problem.Denied {
			problem.Text += fmt.Sprintf(" (no such mount, or no policy of %s allows anything on it)", r.agent.principal())
		}
		return mount{}, problem
	}
	if s == nil || len(s.Data) == 0 {
		return mount{}, &Problem{Text: fmt.Sprintf("%s: answered %d without data (state kv: 1 or kv: 2 if it stays so)", doing, e.status)}
	}
	at, _ := s.Data["path"].(string)
	if at == "" || !strings.HasPrefix(p+"/", at) {
		return mount{}, &Problem{Text: fmt.Sprintf("%s: answered with mount %q", doing, at)}
	}
	kind, _ := s.Data["type"].(string)
	options, _ := s.Data["options"].(map[string]any)
	found := mount{path: at, kv2: kind == "kv" && options["version"] == "2"}
	if m.known == nil {
		m.known = make(map[string]mount)
	}
	m.known[at] = found
	return found, nil
}
