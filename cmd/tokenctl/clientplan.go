package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/tokenbroker/tokenbroker/proto/tokenbroker/v1"
)

// Labels of clients that apply made.
const (
	managedLabel = "managed-by"
	managedValue = "tokenctl-apply"
	setLabel     = "apply-set"
)

// Actions of a plan.
const (
	actionCreate = "create"
	actionUpdate = "update"
	actionDelete = "delete"
	actionNone   = "unchanged"
)

// planned is what becomes of one client.
type planned struct {
	Client  string   `json:"client"`
	Action  string   `json:"action"`
	Secret  string   `json:"secret,omitempty"` // "reference" or "wrapping token", if it gets one
	Changes []change `json:"changes,omitempty"`
	Done    bool     `json:"done"`

	file *clientFile
	etag string
}

// plan is what becomes of a folder's clients.
type plan struct {
	Set     string     `json:"set"`
	DryRun  bool       `json:"dry_run"`
	Clients []*planned `json:"clients"`
}

// count returns how many clients an action is for.
func (p *plan) count(action string) int {
	n := 0
	for _, each := range p.Clients {
		if each.Action == action {
			n++
		}
	}
	return n
}

// readFolder reads the YAML files of a folder and of those below it. All that is wrong
// with any of them is one problem.
func (s *session) readFolder(ctx context.Context, folder string) ([]*clientFile, error) {
	var files []*clientFile
	var problems []string
	names := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch hidden := strings.HasPrefix(entry.Name(), "."); {
		case entry.IsDir() && hidden && path != folder:
			return filepath.SkipDir
		case entry.IsDir() || hidden || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(path)):
			return nil
		}
		content, err := s.readText(ctx, path)
		if err != nil {
			return err
		}
		r := &clientReader{path: path, line: 1, scrubber: &s.scrubber}
		file := r.read(content)
		problems = append(problems, r.problems...)
		if len(r.problems) > 0 {
			return nil
		}
		if other, twice := names[file.client.GetName()]; twice {
			problems = append(problems, fmt.Sprintf("%s:1: %s is in %s already", path, file.client.GetName(), other))
		}
		names[file.client.GetName()] = path
		files = append(files, file)
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, usage("%w", err)
	case len(problems) > 0:
		return nil, usage("nothing was changed\n%s", strings.Join(problems, "\n"))
	}
	return files, nil
}

// planFile asks the broker what a file would change.
func (p *plan) planFile(ctx context.Context, b *services, file *clientFile) (*planned, error) {
	want := file.client
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	want.Labels[managedLabel], want.Labels[setLabel] = managedValue, p.Set
	each := &planned{Client: want.GetName(), Action: actionNone, file: file}
	present, err := b.clients.GetClient(ctx, &pb.GetClientRequest{Name: want.GetName()})
	if problemOf(ctx, orNil(err)).Reason == "CLIENT_NOT_FOUND" {
		each.Action, each.Secret = actionCreate, sourceWord(file.secret)
		created, err := b.clients.CreateClient(ctx, &pb.CreateClientRequest{Client: want, Secret: file.secret, ValidateOnly: true})
		if err == nil {
			err = believe(true, created.GetClient())
		}
		each.Changes = compare(&pb.Client{}, created.GetClient())
		return each, err
	}
	if err != nil {
		return nil, err
	}
	if set := present.GetClient().GetLabels()[setLabel]; set != "" && set != p.Set {
		return nil, &problem{Status: exitPrecondition, Message: fmt.Sprintf("%s belongs to the set %s", want.GetName(), set), Hint: "take it out of one of them"}
	}
	each.etag = present.GetClient().GetEtag()
	updated, secret, err := p.validate(ctx, b, file, present.GetClient())
	if err != nil {
		return nil, err
	}
	file.secret = secret
	each.Secret, each.Changes = sourceWord(secret), compare(present.GetClient(), updated)
	if len(each.Changes) > 0 || secret != nil {
		each.Action = actionUpdate
	}
	return each, nil
}

// validate asks for a dry run of an update, and returns with which secret it would be
// made: a reference that the client has already is none, and a wrapping token brings the
// first secret, or the one that another destination needs.
func (p *plan) validate(ctx context.Context, b *services, file *clientFile, present *pb.Client) (*pb.Client, *pb.SecretInput, error) {
	secret := file.secret
	current := currentOf(present)
	wrapped := secret.GetWrappingToken() != ""
	if current != nil && (wrapped || secret.GetReference() != nil && proto.Equal(secret.GetReference(), current.GetReference())) {
		secret = nil
	}
	for {
		request := &pb.UpdateClientRequest{Client: proto.CloneOf(file.client), UpdateMask: wholeClient(), Secret: secret, ValidateOnly: true}
		request.Client.Etag = present.GetEtag()
		updated, err := b.clients.UpdateClient(ctx, request)
		if err == nil && updated.GetClient().GetEtag() != present.GetEtag() {
			err = &problem{Status: exitUnknownCall, Message: "the broker is older than tokenctl, knows no dry run of this, and has changed " + present.GetName(), Hint: "look with `tokenctl client get`"}
		}
		if err == nil || secret != nil || file.secret == nil || problemOf(ctx, err).Reason != "DESTINATION_NOT_BOUND" {
			return updated.GetClient(), secret, err
		}
		secret = file.secret
	}
}

func currentOf(c *pb.Client) *pb.SecretVersion {
	for _, v := range c.GetSecretVersions() {
		if v.GetStage() == pb.SecretStage_SECRET_STAGE_CURRENT {
			return v
		}
	}
	return nil
}

// orNil makes problemOf answer for no error.
func orNil(err error) error {
	if err == nil {
		return &problem{}
	}
	return err
}

// sourceWord says how a secret comes.
func sourceWord(input *pb.SecretInput) string {
	switch {
	case input.GetReference() != nil:
		return "reference"
	case input.GetWrappingToken() != "":
		return "wrapping token"
	}
	return ""
}

// planPrune adds the clients of the set that no file has any more.
func (p *plan) planPrune(ctx context.Context, b *services) error {
	found, err := listClients(ctx, b, fmt.Sprintf("labels.%s=%s AND labels.%s=%s", managedLabel, managedValue, setLabel, p.Set))
	if err != nil {
		return err
	}
	for _, c := range found.GetClients() {
		if !slices.ContainsFunc(p.Clients, func(each *planned) bool { return each.Client == c.GetName() }) {
			p.Clients = append(p.Clients, &planned{Client: c.GetName(), Action: actionDelete, etag: c.GetEtag()})
		}
	}
	return nil
}

// show prints a plan for people.
func (p *plan) show(w io.Writer, colours bool) {
	for _, each := range p.Clients {
		if each.Action == actionNone {
			continue
		}
		fmt.Fprintln(w, clean(each.Action+" "+each.Client+yes(each.Secret != "", ", with a secret by "+each.Secret)))
		writeChanges(w, each.Changes, colours)
	}
	fmt.Fprintf(w, "%d to create, %d to update, %d to delete, %d unchanged\n", p.count(actionCreate), p.count(actionUpdate), p.count(actionDelete), p.count(actionNone))
}
