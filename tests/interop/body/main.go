// Decodes request bodies with Go's encoding/json, to be compared with kes/api/body.py.
//
// For each line of standard input, a body in base64, it writes a line: "error", or each field's value in base64, text
// as UTF-8, with a comma after each.
package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
)

type fields struct {
	Plaintext  []byte `json:"plaintext"`
	Context    []byte `json:"context"`
	Ciphertext []byte `json:"ciphertext"`
	Message    []byte `json:"message"`
	Key        []byte `json:"key"`
	Cipher     string `json:"cipher"`
}

func main() {
	input := bufio.NewReader(os.Stdin)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			return
		}
		body := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
		size, err := base64.StdEncoding.Decode(body, line)
		if err != nil {
			panic(err)
		}
		var into fields
		if json.NewDecoder(bytes.NewReader(body[:size])).Decode(&into) != nil {
			fmt.Println("error")
			continue
		}
		for _, value := range [][]byte{into.Plaintext, into.Context, into.Ciphertext, into.Message, into.Key, []byte(into.Cipher)} {
			fmt.Print(base64.StdEncoding.EncodeToString(value), ",")
		}
		fmt.Println()
	}
}
