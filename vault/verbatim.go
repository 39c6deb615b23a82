package vault

import (
	"bytes"
	"encoding/json"
)

// verbatim names the one field of a record that is stored as text.
//
// KV version 2 decodes numbers into float64 when a record is read (path_data.go
// of vault-plugin-secrets-kv v0.25.0, pathDataRead). Seen on Vault 1.21: 1.10
// came back as 1.1, 9007199254740993 as 9007199254740992, and 1e400 was refused
// by a bare 500. A record with a number that would change is therefore stored as
// {"tokenbroker_verbatim": "<its JSON>"}; all others as they are, so that the
// vault command line shows their fields.
const verbatim = "tokenbroker_verbatim"

// toKV returns what is stored for a record, which must be a JSON object.
func toKV(record []byte) ([]byte, error) {
	if survives(record) && !bytes.Contains(record, []byte(verbatim)) {
		return record, nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // it would make up to six bytes of one
	err := e.Encode(map[string]string{verbatim: string(record)})
	return b.Bytes(), err
}

// fromKV returns the record that is stored as data; nil if that is not an object.
func fromKV(data []byte) []byte {
	if bytes.Contains(data, []byte(verbatim)) {
		var fields map[string]*string
		if json.Unmarshal(data, &fields) == nil && len(fields) == 1 && fields[verbatim] != nil {
			data = []byte(*fields[verbatim])
		}
	}
	if !isObject(data) {
		return nil
	}
	return data
}

// survives reports whether each number in record is written as KV would write it.
func survives(record []byte) bool {
	d := json.NewDecoder(bytes.NewReader(record))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return true // the end: the caller has checked the syntax
		}
		number, ok := token.(json.Number)
		if !ok {
			continue
		}
		f, err := number.Float64()
		if err != nil {
			return false
		}
		if again, err := json.Marshal(f); err != nil || string(again) != number.String() {
			return false
		}
	}
}

func isObject(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) && json.Valid(data)
}
