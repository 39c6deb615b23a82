package client_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log"
	"net/http"

	"github.com/tokenbroker/tokenbroker/client"
)

func ExampleWithDPoP() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // never leaves this process
	if err != nil {
		log.Fatal(err)
	}
	key, err := client.NewDPoPKey(private)
	if err != nil {
		log.Fatal(err)
	}
	connection := &boundBroker{htu: "https://as.example/token", nonce: "n1", proofs: map[string]bool{}}
	broker := client.NewFromConn(connection, client.WithDPoP(key)) // usually client.New
	defer func() { _ = broker.Close() }()

	source := broker.Source(client.Request{Client: "clients/acme-crm"})
	transport, err := source.RoundTripper(&api{}, "https://api.example.com") // usually nil for http.DefaultTransport
	if err != nil {
		log.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Get("https://api.example.com/v1/customers")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	token, err := source.Token()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(response.StatusCode, token.Type())
	// Output: 200 DPoP
}
