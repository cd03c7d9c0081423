// Package screen is what a person sees and types at the appliance itself, on tty1 and on a serial line: one line for
// each topic (network, data disk, roles, …) with its state and, where something is wrong, what to do next; and a prompt
// for a few commands. It knows nothing of what the topics mean.
package screen

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// State is how a topic stands.
type State string

// The states of a topic.
const (
	Busy    State = "…"
	OK      State = "ok"
	Problem State = "!!"
)

// Item is what is shown of one topic.
type Item struct {
	State State
	// Text is one or more lines.
	Text string
	// Next says what a person can do about it; may be empty.
	Next string
}

// Console is a terminal to show on.
type Console struct {
	// Name is for messages about the console itself.
	Name string
	io.ReadWriter
	// Redraw clears the terminal at every change, as fits tty1; without it only what changed is printed, as fits a
	// serial line that somebody logs.
	Redraw bool
}

// Command is something a person can type.
type Command struct {
	Name, Help string
	// Run gets the words after the name and writes its answer to out.
	Run func(ctx context.Context, args []string, out io.Writer) error
	// Attach, where it is set, stands in the place of Run. What it returns has the console to itself until it ends: nothing else
	// reads there, and the screen is shown there again afterwards. Where Attach fails, nothing has happened to the console.
	Attach func(c Console, args []string) (func(ctx context.Context) error, error)
}

// Screen shows topics on consoles and runs commands. Its methods may be called from many goroutines, and none waits for a
// console.
type Screen struct {
	title    string
	consoles []*output
	commands []Command

	mu     sync.Mutex
	head   []string
	topics []string
	items  map[string]Item
	note   map[string]string // the last answer, by console name, so that a redraw keeps it
}

// New makes a screen. Topics are shown in the given order; one that is set without being listed comes last.
func New(title string, topics []string, consoles []Console, commands []Command) *Screen {
	s := &Screen{title: title, topics: append([]string(nil), topics...), commands: commands, items: map[string]Item{}, note: map[string]string{}}
	for _, c := range consoles {
		s.consoles = append(s.consoles, newOutput(c))
	}
	return s
}

// Set says how a topic stands and shows it if that is news.
func (s *Screen) Set(topic string, item Item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.items[topic]
	if known && old == item {
		return
	}
	if !known && !contains(s.topics, topic) {
		s.topics = append(s.topics, topic)
	}
	s.items[topic] = item
	for _, c := range s.consoles {
		if c.Redraw {
			s.draw(c)
		} else {
			c.add("\n" + line(topic, item))
		}
	}
}

// SetHead puts lines above all topics, and shows them if they are news.
func (s *Screen) SetHead(lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.head, lines) {
		return
	}
	s.head = slices.Clone(lines)
	for _, c := range s.consoles {
		if c.Redraw {
			s.draw(c)
		} else {
			c.add("\n" + s.headText())
		}
	}
}

// headText is the head, and an empty line below it; "" where there is none. s.mu is held.
func (s *Screen) headText() string {
	if len(s.head) == 0 {
		return ""
	}
	var b strings.Builder
	for _, l := range s.head {
		b.WriteString(printable(l) + "\n")
	}
	return b.String() + "\n"
}

// Items returns a copy of what is shown.
func (s *Screen) Items() map[string]Item {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]Item{}
	for k, v := range s.items {
		out[k] = v
	}
	return out
}

// Text is everything that is shown, as text.
func (s *Screen) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text()
}

func (s *Screen) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", s.title, strings.Repeat("─", len([]rune(s.title))))
	b.WriteString(s.headText())
	for _, t := range s.topics {
		if it, ok := s.items[t]; ok {
			b.WriteString(line(t, it))
		}
	}
	return b.String()
}

// line is one topic: state, name, text; further lines and the next step are indented below.
func line(topic string, it Item) string {
	var b strings.Builder
	for i, l := range strings.Split(strings.TrimRight(it.Text, "\n"), "\n") {
		if i == 0 {
			fmt.Fprintf(&b, "[%-2s] %-12s %s\n", it.State, topic, printable(l))
		} else {
			fmt.Fprintf(&b, "     %-12s %s\n", "", printable(l))
		}
	}
	if it.Next != "" {
		for _, l := range strings.Split(it.Next, "\n") {
			fmt.Fprintf(&b, "     %-12s → %s\n", "", printable(l))
		}
	}
	return b.String()
}

// printable keeps terminal control sequences that came with names and errors from reaching the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}

func (s *Screen) draw(c *output) {
	c.replace("\x1b[2J\x1b[H" + s.text() + "\n" + s.note[c.Name] + prompt)
}

// prompt stands before what a person types.
const prompt = "help lists the commands> "

// Serve reads commands from every console until ctx ends. Reading goroutines end when their console does.
func (s *Screen) Serve(ctx context.Context) {
	for _, c := range s.consoles {
		go s.read(ctx, c)
	}
	<-ctx.Done()
}

func (s *Screen) read(ctx context.Context, c *output) {
	in := bufio.NewScanner(c)
	in.Buffer(make([]byte, 0, 256), 4096)
	for in.Scan() && ctx.Err() == nil {
		words := strings.Fields(in.Text())
		var out strings.Builder
		anew := len(words) == 0
		if !anew {
			anew = s.run(ctx, c, words, &out)
		}
		s.mu.Lock()
		if c.Redraw {
			s.note[c.Name] = out.String()
			s.draw(c)
		} else {
			if anew {
				c.add(s.text())
			}
			c.add(out.String() + prompt)
		}
		s.mu.Unlock()
	}
}

// run runs a command. It reports whether the console was another's meanwhile.
func (s *Screen) run(ctx context.Context, c *output, words []string, out io.Writer) (attached bool) {
	if words[0] == "help" {
		for _, cmd := range s.commands {
			fmt.Fprintf(out, "  %-22s %s\n", cmd.Name, cmd.Help)
		}
		return false
	}
	for _, cmd := range s.commands {
		if cmd.Name != words[0] {
			continue
		}
		var err error
		if cmd.Attach != nil {
			attached, err = attach(ctx, c, cmd, words[1:])
		} else {
			err = cmd.Run(ctx, words[1:], out)
		}
		if err != nil {
			fmt.Fprintf(out, "%s: %s\n", printable(words[0]), printable(err.Error()))
		}
		return attached
	}
	fmt.Fprintf(out, "there is no command %q; help lists them\n", words[0])
	return false
}

// attach gives a console to a command, and takes it back as a terminal is at first, whatever was done to it. It reports whether
// the command had it.
func attach(ctx context.Context, c *output, cmd Command, args []string) (bool, error) {
	session, err := cmd.Attach(c.Console, args)
	if err != nil {
		return false, err
	}
	c.hold(true)
	defer c.hold(false)
	err = session(ctx)
	reset := "\x1b[0m\r\n" // colours off
	if c.Redraw {
		reset = "\x1bc" // everything (console_codes(4), RIS)
	}
	_, _ = io.WriteString(c, reset) // a console that is gone is no reason to stop
	return true, err
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
