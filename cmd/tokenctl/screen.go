package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	// plainWidth is how wide text is that goes to a file or another program.
	plainWidth = 100
	// leastWidth is below what text is not broken any more: the terminal does that.
	leastWidth = 24
)

// screen is where a command prints for people: lines that stay and, at a terminal, a last
// one that is written over. It belongs to one goroutine.
type screen struct {
	out io.Writer
	// width is that of the terminal, 0 if out is none, or not for people.
	width  int
	colour bool
	drawn  bool // whether a line is there to be written over
}

// newScreen looks at where the output goes.
func newScreen(s *session) screen {
	x := screen{out: s.stdout}
	if file, ok := s.stdout.(*os.File); ok && s.Output == outputText {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil {
			x.width = max(width, 1)
			x.colour = s.getenv("NO_COLOR") == "" && s.getenv("TERM") != "dumb"
		}
	}
	return x
}

// terminal reports whether a person is looking.
func (x *screen) terminal() bool { return x.width > 0 }

// columns are how wide text may be.
func (x *screen) columns() int {
	if !x.terminal() {
		return plainWidth
	}
	return max(x.width-1, leastWidth)
}

// line prints a line that stays.
func (x *screen) line(text string) {
	x.end()
	fmt.Fprintln(x.out, text)
}

// wrapped prints text behind first, broken between words; further lines are indented as
// far as first is wide, or by two where that leaves too little. The text is made harmless,
// first is ours.
func (x *screen) wrapped(first, text string) {
	column := utf8.RuneCountInString(uncoloured(first))
	words := strings.Fields(clean(text))
	indent := column
	if column > x.columns()/2 || len(words) > 0 && column+utf8.RuneCountInString(words[0]) > x.columns() {
		indent = 2
	}
	x.hanging(first, indent, text)
}

// hanging is wrapped with an indent of further lines.
func (x *screen) hanging(first string, indent int, text string) {
	x.end()
	column := utf8.RuneCountInString(uncoloured(first))
	words := strings.Fields(clean(text))
	var b strings.Builder
	b.WriteString(first)
	for i, word := range words {
		size := utf8.RuneCountInString(word)
		switch {
		case column > indent && column+min(i, 1)+size > x.columns():
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		case i > 0:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += size
	}
	for line := range strings.SplitSeq(b.String(), "\n") {
		fmt.Fprintln(x.out, strings.TrimRight(line, " "))
	}
}

// transient draws the line that is written over; without a terminal there is none.
func (x *screen) transient(text string) {
	if x.width < 2 {
		return
	}
	runes := []rune(clean(text))
	fmt.Fprintf(x.out, "\r\x1b[2K%s", string(runes[:min(len(runes), x.width-1)]))
	x.drawn = true
}

// end takes the line away that is written over.
func (x *screen) end() {
	if x.drawn {
		_, _ = io.WriteString(x.out, "\r\x1b[2K")
		x.drawn = false
	}
}

// Colours, by what they say. They never say it alone: a word stands there too.
const (
	colourGood  = "32"
	colourLook  = "33"
	colourBad   = "1;31"
	colourFaint = "2"
	colourBold  = "1"
)

// paint colours text at a terminal that shows colours.
func (x *screen) paint(colour, text string) string {
	if !x.colour || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// uncoloured takes out what paint put in.
func uncoloured(text string) string {
	for {
		before, rest, found := strings.Cut(text, "\x1b[")
		_, after, closed := strings.Cut(rest, "m")
		if !found || !closed {
			return text
		}
		text = before + after
	}
}

// spinnerEvery is how often a spinner turns.
const spinnerEvery = 120 * time.Millisecond

// spinner is the picture of something that goes on, at a time since it began.
func spinner(since time.Duration) string {
	const pictures = `|/-\`
	return string(pictures[int(since/spinnerEvery)%len(pictures)])
}

// received is one message of a stream, or how it ended.
type received[T any] struct {
	message T
	err     error
}

// following reads a stream in the background, so that a terminal can be drawn meanwhile.
// Its goroutine ends with the stream, which the caller's context ends.
func following[T any](receive func() (T, error)) <-chan received[T] {
	messages := make(chan received[T])
	go func() {
		defer close(messages)
		for {
			message, err := receive()
			messages <- received[T]{message, err}
			if err != nil {
				return
			}
		}
	}()
	return messages
}

// each calls take with what a stream brings until it ends, and turn now and then between:
// only at a terminal. stop ends the stream when take fails. The error is the stream's,
// io.EOF at its end, or take's.
func each[T any](x *screen, stop func(), receive func() (T, error), take func(T) error, turn func(time.Duration)) error {
	if !x.terminal() {
		for {
			message, err := receive()
			if err == nil {
				err = take(message)
			}
			if err != nil {
				return err
			}
		}
	}
	began := time.Now()
	ticks := time.NewTicker(spinnerEvery)
	defer ticks.Stop()
	messages := following(receive)
	var failed error
	for {
		select {
		case got, open := <-messages:
			switch {
			case !open:
				return failed
			case failed != nil: // take's error stands; the stream is read to its end
			case got.err != nil:
				failed = got.err
			default:
				if failed = take(got.message); failed != nil {
					stop()
				}
			}
		case <-ticks.C:
			if failed == nil {
				turn(time.Since(began))
			}
		}
	}
}
