package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// management speaks to the provider's management API; see package provider.
type management struct {
	origin string
	token  string // a credential: never logged
	http   *http.Client
}

func newManagement(origin, token string) *management {
	return &management{origin: strings.TrimSuffix(origin, "/"), token: token, http: &http.Client{
		Timeout:       15 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // secrets go nowhere else
	}}
}

// put makes a secret work under a name. Doing so twice succeeds.
func (m *management) put(ctx context.Context, client, name, secret string) error {
	return m.call(ctx, http.MethodPut, "/admin/clients/"+url.PathEscape(client)+"/secrets/"+url.PathEscape(name), secret, nil)
}

// names returns the names of a client's secrets.
func (m *management) names(ctx context.Context, client string) ([]string, error) {
	var answer struct{ Names []string }
	err := m.call(ctx, http.MethodGet, "/admin/clients/"+url.PathEscape(client)+"/secrets", "", &answer)
	return answer.Names, err
}

// revoke ends a secret. Doing so twice succeeds.
func (m *management) revoke(ctx context.Context, client, secret string) error {
	return m.call(ctx, http.MethodPost, "/admin/clients/"+url.PathEscape(client)+"/revoke", secret, nil)
}

// call returns errors with the codes of RotatorService. Their texts are our own: the
// provider's may hold anything.
func (m *management) call(ctx context.Context, method, path, secret string, answer any) error {
	var body io.Reader
	if secret != "" {
		encoded, err := json.Marshal(map[string]string{"secret": secret})
		if err != nil {
			return status.Error(codes.InvalidArgument, "the secret cannot be encoded")
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, m.origin+path, body)
	if err != nil {
		return status.Error(codes.InvalidArgument, "the client's id makes no URL")
	}
	request.Header.Set("Authorization", "Bearer "+m.token)
	response, err := m.http.Do(request)
	if err != nil {
		return status.Error(codes.Unavailable, "the provider does not answer")
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	switch {
	case err != nil:
		return status.Error(codes.Unavailable, "the provider's answer broke off")
	case response.StatusCode/100 == 2 && answer == nil:
		return nil
	case response.StatusCode/100 == 2:
		if json.Unmarshal(content, answer) != nil {
			return status.Error(codes.Unavailable, "the provider's answer cannot be read")
		}
		return nil
	}
	return meaning(response.StatusCode)
}

// meaning says which HTTP statuses mean that nothing was changed.
func meaning(code int) error {
	switch code {
	case http.StatusNotFound:
		return status.Error(codes.NotFound, "the provider does not know the client")
	case http.StatusBadRequest, http.StatusConflict:
		return status.Error(codes.FailedPrecondition, "the provider refuses the secret")
	case http.StatusUnauthorized, http.StatusForbidden:
		return status.Error(codes.Unauthenticated, "the provider refuses the management token")
	case http.StatusTooManyRequests:
		patience, err := status.New(codes.ResourceExhausted, "the provider asks for patience").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Minute)})
		return errors.Join(patience.Err(), err)
	}
	return status.Errorf(codes.Unavailable, "the provider answers %d", code)
}
