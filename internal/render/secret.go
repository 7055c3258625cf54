package render

// View is what a template sees of a secret, under the names that Vault Agent
// gives its fields.
type View struct {
	RequestID     string
	LeaseID       string
	LeaseDuration int // seconds
	Renewable     bool
	Data          map[string]any
	Warnings      []string
}
