package brokertest

import (
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// RefreshKind says how an [Upstream] treats refresh tokens.
type RefreshKind struct {
	// Name is used in the names of subtests.
	Name string
	// Declared is what the broker is told of it.
	Declared broker.RefreshPolicy
	// Rotates says that each use replaces the refresh token; one that was replaced is
	// taken for Declared.Grace more. Its use after that ends the whole family.
	Rotates bool
}

// RefreshKinds lists each kind that the broker treats in a way of its own.
func RefreshKinds() []RefreshKind {
	return []RefreshKind{
		{Name: "rotates", Declared: broker.RefreshPolicy{Rotation: broker.RotationAlways}, Rotates: true},
		{Name: "rotates with grace", Declared: broker.RefreshPolicy{Rotation: broker.RotationAlways, Grace: 2 * time.Minute}, Rotates: true},
		{Name: "never rotates", Declared: broker.RefreshPolicy{Rotation: broker.RotationNever}},
		{Name: "undeclared, rotates", Rotates: true},
		{Name: "undeclared, stays"},
		{Name: "with access token", Declared: broker.RefreshPolicy{Rotation: broker.RotationNever, WithAccessToken: true}},
	}
}

// Profiles is a [broker.Providers] that declares nothing but what it holds.
type Profiles map[string]broker.Provider

// Provider implements [broker.Providers].
func (p Profiles) Provider(name string) (broker.Provider, bool) {
	found, ok := p[name]
	return found, ok
}

// Names implements [broker.Providers].
func (p Profiles) Names() []string {
	var names []string
	for name := range p {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Complete implements [broker.Providers]: it leaves settings as they are.
func (p Profiles) Complete(*broker.Upstream, *broker.TokenPolicy, *broker.RotationSettings) []broker.FieldViolation {
	return nil
}

// family are the refresh tokens that came of one consent.
type family struct {
	user string
	// replaced :: refresh token → when its use replaced it; zero for those that are good
	replaced map[string]time.Time
	ended    bool
}

// TreatRefresh says how refresh tokens are treated from now on.
func (u *Upstream) TreatRefresh(kind RefreshKind) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.refreshKind = kind
}

// Consent is the answer of a server whose user has just consented: an access token of the
// user's and what refreshes it.
func (u *Upstream) Consent(user string) broker.TokenResponse {
	u.mu.Lock()
	defer u.mu.Unlock()
	f := &family{user: user, replaced: map[string]time.Time{}}
	u.families = append(u.families, f)
	response := u.answer(user)
	response.SentTime = time.Now()
	if u.refreshKind.Declared.WithAccessToken {
		f.replaced[response.AccessToken.RevealString()] = time.Time{}
		return response
	}
	response.RefreshToken = u.nextRefresh(f)
	return response
}

// Withdraw ends all that user consented to.
func (u *Upstream) WithdrawConsent(user string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range u.families {
		f.ended = f.ended || f.user == user
	}
}

// Reused returns how often a refresh token was used that had been replaced and was past
// its grace: a broker never does that.
func (u *Upstream) Reused() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.reused
}

// RefreshTokens returns all refresh tokens that were ever issued.
func (u *Upstream) RefreshTokens() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []string
	for _, f := range u.families {
		for token := range f.replaced {
			all = append(all, token)
		}
	}
	return all
}

func (u *Upstream) nextRefresh(f *family) secret.Value {
	u.refreshes++
	token := fmt.Sprintf("refresh-of-%s-%d", f.user, u.refreshes)
	f.replaced[token] = time.Time{}
	return secret.NewString(token)
}

// refresh answers the use of a refresh token.
func (u *Upstream) refresh(req broker.TokenRequest) (broker.TokenResponse, error) {
	rejected := func(reason broker.Reason) (broker.TokenResponse, error) {
		return broker.TokenResponse{}, &broker.Error{Reason: reason, Op: "request token", Detail: "400 invalid_grant"}
	}
	token := req.Grant.RefreshToken.RevealString()
	if u.refreshKind.Declared.WithAccessToken {
		token = req.Grant.AccessToken.RevealString()
	}
	i := slices.IndexFunc(u.families, func(f *family) bool { _, ok := f.replaced[token]; return ok })
	if i < 0 || u.families[i].ended {
		return rejected(broker.ReasonGrantRejected)
	}
	f, now := u.families[i], time.Now()
	if at := f.replaced[token]; !at.IsZero() && now.Sub(at) >= u.refreshKind.Declared.Grace {
		f.ended = true
		u.reused++
		return rejected(broker.ReasonRefreshTokenReused)
	}
	response := u.answer(f.user)
	switch {
	case u.refreshKind.Declared.WithAccessToken:
		f.replaced[response.AccessToken.RevealString()] = time.Time{}
	case u.refreshKind.Rotates:
		for other, at := range f.replaced { // also a successor whose answer was lost
			if at.IsZero() {
				f.replaced[other] = now
			}
		}
		response.RefreshToken = u.nextRefresh(f)
	}
	return response, nil
}
