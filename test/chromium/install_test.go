package chromium_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/test/chromium"
)

func TestInstall(t *testing.T) {
	folder, err := chromium.Install(t.Context(), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(folder)
}
