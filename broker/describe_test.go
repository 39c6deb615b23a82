package broker_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// stages describes a client's versions: "1 previous, 2 current, 3 destroying".
func stages(c *broker.Client) string {
	var list []string
	for _, v := range c.Secrets {
		stage := string(v.Stage)
		if v.Destroying {
			stage += "destroying"
		}
		if stage == "" {
			stage = "unlabelled"
		}
		list = append(list, fmt.Sprintf("%d %s", v.Number, stage))
	}
	return strings.Join(list, ", ")
}

// describe returns all that a client has in its record.
func describe(t *testing.T, c *broker.Client) string {
	t.Helper()
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
