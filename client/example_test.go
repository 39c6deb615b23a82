package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tokenbroker/tokenbroker/client"
)

func ExampleNew() {
	broker, err := client.New("broker.example.org:7443",
		client.WithTLS(client.TLSFiles{Certificate: "/etc/crm/tls.crt", Key: "/etc/crm/tls.key", CA: "/etc/crm/ca.crt"}))
	if err != nil {
		fmt.Println("the error names the file")
		return
	}
	defer func() { _ = broker.Close() }()
	// Output: the error names the file
}

func ExampleClient_Token() {
	broker := client.NewFromConn(oneToken{}) // usually client.New
	defer func() { _ = broker.Close() }()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	token, err := broker.Token(ctx, client.Request{Client: "clients/acme-crm", MinValidity: time.Minute})
	var e *client.Error
	switch {
	case errors.As(err, &e) && e.Reason == client.ReasonClientDisabled:
		fmt.Println("an operator disabled it")
	case err != nil:
		fmt.Println(err)
	default:
		fmt.Println(token.ID, token.Type, token.Access)
	}
	// Output: 0123456789abcdef Bearer [secret]
}

func ExampleSource_RoundTripper() {
	broker := client.NewFromConn(oneToken{}) // usually client.New
	defer func() { _ = broker.Close() }()

	source := broker.Source(client.Request{Client: "clients/acme-crm", Scopes: []string{"read"}})
	transport, err := source.RoundTripper(&api{}, "https://api.example.com") // usually nil for http.DefaultTransport
	if err != nil {
		log.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Get("https://api.example.com/v1/customers")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	fmt.Println(response.StatusCode)

	_, err = (&http.Client{Transport: transport}).Get("https://other.example.com/")
	fmt.Println(errors.Unwrap(err))
	// Output:
	// 200
	// tokenbroker: https://other.example.com:443 is not an origin that the token is bound to
}

func ExampleSource_PerRPCCredentials() {
	broker := client.NewFromConn(oneToken{}) // usually client.New
	defer func() { _ = broker.Close() }()

	source := broker.Source(client.Request{Client: "clients/acme-crm"})
	conn, err := grpc.NewClient("api.example.com:443",
		grpc.WithTransportCredentials(credentials.NewTLS(nil)), grpc.WithPerRPCCredentials(source.PerRPCCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	fmt.Println(conn.Target())
	// Output: api.example.com:443
}

func ExampleSource_Token() {
	broker := client.NewFromConn(oneToken{}) // usually client.New
	defer func() { _ = broker.Close() }()

	source := broker.Source(client.Request{Client: "clients/acme-crm"}) // is an oauth2.TokenSource
	token, err := source.Token()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(token.Type(), token.Extra("token_id"), token.Valid())
	// Output: Bearer 0123456789abcdef true
}
