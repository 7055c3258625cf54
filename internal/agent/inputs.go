package agent

import "encoding/json"

// keptInputs lies in the private part of the volume: what the published files
// were made of whose templates would give others each time. An agent that is
// started again does not change them without need.
const keptInputs = "inputs"

// madeOf is the content of keptInputs. It holds for one set: after a crash
// between a publication and its note, files are made once more.
type madeOf struct {
	Set    string
	Inputs map[string]string // by path of the entry
}

// noteInputs notes what a round's files were made of, once they are published.
func (a *Agent) noteInputs(out []rendered) {
	for _, r := range out {
		if r.err == nil {
			r.entry.inputs = r.inputs
		}
	}
	now := madeOf{Set: a.volume.Set(), Inputs: make(map[string]string)}
	for _, e := range a.entries {
		if e.inputs != "" {
			now.Inputs[e.file.Path] = e.inputs
		}
	}
	if len(now.Inputs) == 0 {
		return
	}
	data, err := json.Marshal(now)
	if err != nil {
		return
	}
	if was, err := a.volume.ReadPrivate(keptInputs); err == nil && string(was) == string(data) {
		return
	}
	if err := a.volume.WritePrivate(keptInputs, data); err != nil {
		a.log.Warn("keeping what files were made of; some may change after a restart", "reason", err)
	}
}

// recallInputs takes up what an earlier run noted.
func (a *Agent) recallInputs() {
	data, err := a.volume.ReadPrivate(keptInputs)
	var was madeOf
	if err != nil || json.Unmarshal(data, &was) != nil || was.Set == "" || was.Set != a.volume.Set() {
		return
	}
	for _, e := range a.entries {
		if a.published(e) {
			e.inputs = was.Inputs[e.file.Path]
		}
	}
}
