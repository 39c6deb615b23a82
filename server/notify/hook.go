package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/outbound"
	"github.com/tokenbroker/tokenbroker/internal/secret"
)

// maxAnswer is how much of an answer is read, so that its connection can be used again.
// Nothing in it counts.
const maxAnswer = 16 << 10

// hook delivers to one webhook. Its queue is safe for concurrent use, the rest belongs to
// the goroutine of run.
type hook struct {
	webhook Webhook
	url     *url.URL
	door    *outbound.Door
	// transport takes the place of door's; nil if it does not.
	transport http.RoundTripper
	log       *slog.Logger
	queue     queue
	counts    map[Outcome]*atomic.Int64

	key secret.Value
	// keyFailing says that the secret file could not be read again, which was logged.
	keyFailing bool
}

// run delivers until ctx ends; then each event that waits gets one more try until
// sending ends. What is left is dropped.
func (h *hook) run(ctx, sending context.Context) {
	for ctx.Err() == nil {
		event, wait := h.queue.take(time.Now())
		if event == nil {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-h.queue.signal:
			case <-ctx.Done():
			}
			timer.Stop()
			continue
		}
		h.try(sending, event)
	}
	for _, event := range h.queue.close() {
		if sending.Err() != nil {
			h.dropped(event)
			continue
		}
		h.try(sending, event)
	}
	h.key.Wipe()
}

// try delivers an event, or has it tried again.
func (h *hook) try(ctx context.Context, event *waiting) {
	err := h.send(ctx, event)
	if err == nil {
		h.counts[Delivered].Add(1)
		h.log.DebugContext(ctx, "event delivered", "webhook", h.webhook.Name, "event_id", event.id)
		return
	}
	first := event.tries == 0
	if !event.failed(time.Now()) {
		h.counts[GivenUp].Add(1)
		h.log.ErrorContext(ctx, "event not delivered; given up", "webhook", h.webhook.Name, "event_id", event.id, "tries", event.tries, "cause", err)
		return
	}
	h.counts[Failed].Add(1)
	if first {
		h.log.WarnContext(ctx, "event not delivered", "webhook", h.webhook.Name, "event_id", event.id, "cause", err)
	}
	h.dropped(h.queue.back(event))
}

// dropped counts an event that there was no room or no time for; nil is none.
func (h *hook) dropped(event *waiting) {
	if event != nil {
		h.counts[Dropped].Add(1)
		h.log.Error("event dropped", "webhook", h.webhook.Name, "event_id", event.id, "tries", event.tries)
	}
}

// send makes one request. Its errors quote neither the URL nor what the server sent.
func (h *hook) send(ctx context.Context, event *waiting) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	h.readKey()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url.String(), bytes.NewReader(event.body))
	if err != nil {
		return errors.New("the URL cannot be requested")
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "tokenbroker")
	request.Header.Set(EventIDHeader, event.id)
	request.Header.Set(SignatureHeader, sign(h.key, time.Now(), event.body))
	transport := h.transport
	if transport == nil {
		if transport, _, err = h.door.Route(h.url); err != nil {
			return err
		}
	}
	// RoundTrip and not Client.Do: it follows no redirect, and its errors do not quote
	// the URL.
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return inOurWords(err)
	}
	_, _ = io.CopyN(io.Discard, answer.Body, maxAnswer) // only the status counts
	_ = answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("the receiver answered %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	return nil
}

// readKey takes in the secret file as it is now; while it cannot be read the key before
// stays in use.
func (h *hook) readKey() {
	key, err := readSecret(h.webhook.SecretFile)
	if err != nil {
		if !h.keyFailing {
			h.log.Error("secret of a webhook not read again; the last good one stays in use", "webhook", h.webhook.Name, "cause", err)
		}
		h.keyFailing = true
		return
	}
	h.key.Wipe()
	h.key, h.keyFailing = key, false
}

// inOurWords says why there is no answer. The texts of net/http and of certificates hold
// what the server sent.
func inOurWords(err error) error {
	var (
		refused     *outbound.AddressError
		proxy       *outbound.ProxyError
		certificate *tls.CertificateVerificationError
		name        *net.DNSError
		network     *net.OpError
		timeout     interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &proxy):
		return proxy
	case errors.As(err, &certificate):
		return errors.New("the receiver's certificate is not good: authority, name or dates")
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("the receiver did not answer in time")
	case errors.As(err, &name):
		return errors.New("the receiver's host name does not resolve")
	case errors.As(err, &network) && network.Op == "dial":
		return errors.New("the receiver cannot be connected to")
	default:
		return errors.New("the exchange with the receiver broke off")
	}
}
