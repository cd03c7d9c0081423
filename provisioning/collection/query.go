package collection

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"branchpoint/provisioning"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
)

const (
	// MaxQuery bounds a query's length in bytes.
	MaxQuery = 2048
	// maxCost bounds what a query may cost, in CEL's units of about one simple operation: before it is used by an estimate
	// for the largest computer that there can be, and again while it is evaluated. It is well below a millisecond.
	maxCost = 20_000
	// mostCost ends an evaluation. Estimates are not exact, so that what they allow must come to its end, too.
	mostCost = 2 * maxCost
	// maxPattern bounds a pattern of matches(), in instructions of the automaton it is made into.
	maxPattern = 500
	// maxNesting bounds how deep a query's parentheses go.
	maxNesting = 64
	// maxErrors and maxMessage bound what is said of one query, in errors and bytes of each: types are named at length.
	maxErrors, maxMessage = 20, 400
)

// QueryError is one thing that is wrong with a query.
type QueryError struct {
	// Line and Column say where, each from 1, in characters; 1 and 1 where it is the query as a whole.
	Line, Column int
	// Message says what is wrong, and what to write.
	Message string
}

// QueryErrors are all that is wrong with a query, in the order of their places. It is never empty.
type QueryErrors []QueryError

// Error names every place.
func (e QueryErrors) Error() string {
	texts := make([]string, len(e))
	for i, q := range e {
		texts[i] = fmt.Sprintf("%d:%d: %s", q.Line, q.Column, q.Message)
	}
	return strings.Join(texts, "; ")
}

// Query is a compiled query. It is safe for concurrent use.
type Query struct {
	estimate uint64 // what it costs at most for a Subject that is not larger than estimates assume
	// program is for these; measured ends an evaluation that costs too much, for all others.
	program, measured cel.Program
	// claimed is where the query first asks for what a computer says of itself, nil where it goes by its document alone.
	claimed *QueryError
}

// claims are the variables that hold what a computer, or who boots in its name, says of itself.
var claims = map[string]bool{"inventory": true, "deployments": true}

// allowed are the functions that a query may call. None makes anything large of something small, or asks for the time or
// for a file.
var allowed = map[string]bool{
	operators.Conditional: true, operators.LogicalAnd: true, operators.LogicalOr: true, operators.LogicalNot: true,
	operators.Equals: true, operators.NotEquals: true, operators.Less: true, operators.LessEquals: true,
	operators.Greater: true, operators.GreaterEquals: true, operators.Add: true, operators.Subtract: true,
	operators.Multiply: true, operators.Divide: true, operators.Modulo: true, operators.Negate: true,
	operators.Index: true, operators.In: true, operators.NotStrictlyFalse: true,
	"size": true, "contains": true, "startsWith": true, "endsWith": true, "matches": true, lowerASCII: true,
	"int": true, "uint": true, "double": true, "string": true, "bool": true,
}

// lowerASCII is CEL's name in its extension of text functions, which are too many to have them all.
const lowerASCII = "lowerAscii"

// environment is what queries are compiled in; making it is dear.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	return cel.NewEnv(
		cel.CustomTypeAdapter(registry), cel.CustomTypeProvider(provider{registry}),
		cel.Variable("computer", typeComputer), cel.Variable("inventory", typeInventory),
		cel.Variable("deployments", cel.ListType(typeDeployment)),
		cel.ClearMacros(), cel.Macros(cel.HasMacro, cel.AllMacro, cel.ExistsMacro, cel.ExistsOneMacro),
		cel.Function(lowerASCII, cel.MemberOverload("string_lower_ascii", []*cel.Type{cel.StringType}, cel.StringType,
			cel.UnaryBinding(func(v ref.Val) ref.Val { return types.String(lower(string(v.(types.String)))) }))),
		cel.ParserRecursionLimit(maxNesting), cel.ParserExpressionSizeLimit(MaxQuery),
	)
})

// lower makes ASCII letters small and leaves all else as it is.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// Compile compiles a query, and refuses one that could take long. Its error is a QueryErrors.
func Compile(query string) (q *Query, err error) {
	defer func() {
		if r := recover(); r != nil { // a defect of the library must silence one collection, not a branch
			q, err = nil, whole("this query cannot be compiled: %v", r)
		}
	}()
	switch {
	case strings.TrimSpace(query) == "":
		return nil, whole("the query is empty")
	case len(query) > MaxQuery:
		return nil, whole("the query has %d bytes; write at most %d, or list the computers", len(query), MaxQuery)
	case !utf8.ValidString(query):
		return nil, whole("the query is not UTF-8 text")
	}
	env, err := environment()
	if err != nil {
		return nil, whole("queries cannot be compiled: %v", err)
	}
	checked, issues := env.Compile(query)
	if issues.Err() != nil {
		return nil, errorsOf(issues)
	}
	if !checked.OutputType().IsExactType(cel.BoolType) {
		return nil, whole("the query gives a %s; write a condition, which is true for members", checked.OutputType())
	}
	costs := &estimator{patterns: map[string]uint64{}}
	if found := costs.inspect(checked.NativeRep()); len(found) > 0 {
		return nil, found
	}
	estimate, err := env.EstimateCost(checked, costs)
	if err != nil {
		return nil, whole("what the query costs cannot be told: %v", err)
	}
	if estimate.Max > maxCost {
		return nil, whole("the query could take too long for each machine that asks: its cost is up to %d, allowed are %d; "+
			"use fewer of all(), exists() and matches(), and none within another", estimate.Max, maxCost)
	}
	q = &Query{estimate: estimate.Max, claimed: costs.claimed}
	if q.program, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize)); err != nil {
		return nil, whole("%v", err)
	}
	if q.measured, err = env.Program(checked, cel.EvalOptions(cel.OptOptimize), cel.CostTracking(costs), cel.CostLimit(mostCost)); err != nil {
		return nil, whole("%v", err)
	}
	return q, nil
}

func whole(format string, args ...any) QueryErrors {
	return QueryErrors{{1, 1, fmt.Sprintf(format, args...)}}
}

func errorsOf(issues *cel.Issues) QueryErrors {
	var out QueryErrors
	for _, e := range issues.Errors() {
		if len(out) == maxErrors {
			break
		}
		// The library counts columns from 0, and says -1 where there is no place.
		out = append(out, QueryError{max(1, e.Location.Line()), max(1, e.Location.Column()+1), clip(e.Message)})
	}
	if len(out) == 0 {
		return whole("%v", issues.Err())
	}
	return out
}

// clip shortens a message.
func clip(s string) string {
	if len(s) > maxMessage {
		return strings.ToValidUTF8(s[:maxMessage], "") + "…"
	}
	return s
}

// Fits reports whether the query is true for a computer. An error is no answer: the computer then is no member.
func (q *Query) Fits(s *Subject) (bool, error) {
	if !s.bounded {
		fits, _, err := q.measure(s)
		return fits, err
	}
	out, _, err := q.program.Eval(s)
	return answer(out, err)
}

// measure returns what the evaluation cost, too, and ends it where that is more than mostCost.
func (q *Query) measure(s *Subject) (bool, uint64, error) {
	out, details, err := q.measured.Eval(s)
	var cost uint64
	if c := details.ActualCost(); c != nil {
		cost = *c
	}
	fits, err := answer(out, err)
	return fits, cost, err
}

func answer(out ref.Val, err error) (bool, error) {
	if err != nil {
		return false, err
	}
	fits, ok := out.Value().(bool)
	if !ok {
		return false, errors.New("it is neither true nor false")
	}
	return fits, nil
}

// estimator says what CEL cannot know of what a query costs (checker.CostEstimator, interpreter.ActualCostEstimator).
type estimator struct {
	patterns map[string]uint64 // the patterns of the query with their instructions
	longest  uint64            // the most bytes of a text that is written out
	claimed  *QueryError       // Query.claimed
}

// inspect refuses what a query may not hold, and notes its patterns. Estimates do not see that a text or a list grows from
// one all() or exists() to the next within it, and that lists of lists are compared to their bottom: a line of doublings
// would take years. Without these all that a query looks at is something of the computer's, or stands in the query.
func (c *estimator) inspect(query *ast.AST) QueryErrors {
	var out QueryErrors
	within := map[int64]bool{} // expressions in all() and exists()
	fault := func(e ast.Expr, format string, args ...any) QueryError {
		at := query.SourceInfo().GetStartLocation(e.ID())
		return QueryError{max(1, at.Line()), max(1, at.Column()+1), fmt.Sprintf(format, args...)}
	}
	refuse := func(e ast.Expr, format string, args ...any) { out = append(out, fault(e, format, args...)) }
	ast.PreOrderVisit(query.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.IdentKind:
			if claims[e.AsIdent()] && c.claimed == nil {
				f := fault(e, "%s is what a computer says of itself, which could talk itself into the secrets of this collection; "+
					"list the computers, or ask for what stands in their documents", e.AsIdent())
				c.claimed = &f
			}
		case ast.LiteralKind:
			c.longest = max(c.longest, length(e.AsLiteral()))
		case ast.ComprehensionKind:
			ast.PreOrderVisit(e, ast.NewExprVisitor(func(inner ast.Expr) { within[inner.ID()] = true }))
			if over := e.AsComprehension().IterRange(); !flat(query.GetType(over.ID())) {
				refuse(over, "all() and exists() go through texts, numbers or deployments, which are of one type")
			}
		case ast.StructKind:
			refuse(e, "a query makes no objects of type %s", e.AsStruct().TypeName())
		case ast.CallKind:
			call := e.AsCall()
			switch name := call.FunctionName(); {
			case !allowed[name]:
				refuse(e, "function %s() is not for queries", name)
			case compares[name] && slices.ContainsFunc(call.Args(), func(a ast.Expr) bool { t := query.GetType(a.ID()); return !flat(t) && !simple(t) }):
				refuse(e, "only texts, numbers and lists of them are compared, which are of one type")
			case name == operators.Add && within[e.ID()] && query.GetType(e.ID()).Kind() == types.StringKind:
				refuse(e, "texts are not put together within all() and exists()")
			case name == operators.Add && query.GetType(e.ID()).Kind() != types.IntKind &&
				query.GetType(e.ID()).Kind() != types.StringKind && query.GetType(e.ID()).Kind() != types.DoubleKind:
				refuse(e, "+ is for whole numbers, fractions and texts")
			case name == "matches":
				if why := c.pattern(call.Args()[len(call.Args())-1]); why != "" {
					refuse(e, "%s", why)
				}
			}
		}
	}))
	slices.SortStableFunc(out, func(a, b QueryError) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	return out
}

// compares are the functions that look at all of what they are given.
var compares = map[string]bool{operators.Equals: true, operators.NotEquals: true, operators.In: true}

// simple reports whether a value of that type holds no others that a query could put there.
func simple(t *types.Type) bool {
	switch t.Kind() {
	case types.BoolKind, types.IntKind, types.UintKind, types.DoubleKind, types.StringKind, types.BytesKind, types.NullTypeKind, types.StructKind:
		return true
	}
	return false
}

// flat reports whether a list has elements, or a map keys and values, that are simple.
func flat(t *types.Type) bool {
	return (t.Kind() == types.ListKind || t.Kind() == types.MapKind) && !slices.ContainsFunc(t.Parameters(), func(p *types.Type) bool { return !simple(p) })
}

// pattern notes the pattern of a matches(), and says what is wrong with it.
func (c *estimator) pattern(e ast.Expr) string {
	var text types.String
	ok := e.Kind() == ast.LiteralKind
	if ok {
		text, ok = e.AsLiteral().(types.String)
	}
	if !ok {
		return "write the pattern of matches() out as text"
	}
	parsed, err := syntax.Parse(string(text), syntax.Perl)
	if err != nil {
		return fmt.Sprintf("the pattern of matches() is malformed: %v", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxPattern {
		return "the pattern of matches() is too large; repeat less"
	}
	c.patterns[string(text)] = uint64(len(program.Inst))
	return ""
}

// The sizes that estimates assume, in characters and in entries. A Subject that is larger is measured.
const (
	maxName, maxMACs, maxMAC, maxGUID  = 63, 64, 17, 36
	maxVariables, maxVariable, maxLong = 128, 256, 1024
	maxDeployments, maxField           = 128, provisioning.MaxInventoryField
)

// EstimateSize bounds what a query sees: the largest computer that there can be.
func (c *estimator) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	var most uint64
	switch path := element.Path(); strings.Join(path, ".") {
	case "":
		return nil
	case "computer.name", "computer.site":
		most = maxName
	case "computer.macAddresses":
		most = maxMACs
	case "computer.macAddresses.@items":
		most = maxMAC
	case "computer.smbiosGUID":
		most = maxGUID
	case "computer.variables":
		most = maxVariables
	case "computer.variables.@keys":
		most = maxVariable
	case "computer.description", "computer.variables.@values":
		most = maxLong
	case "deployments":
		most = maxDeployments
	default: // an inventory's, a deployment's, or an element of a list that is written out
		if most = maxField; path[0] != "inventory" && path[0] != "deployments" {
			most = max(maxLong, c.longest)
		}
	}
	return &checker.SizeEstimate{Max: most}
}

// EstimateCallCost bounds the functions of queries that CEL does not know well.
func (c *estimator) EstimateCallCost(function, _ string, target *checker.AstNode, args []checker.AstNode) *checker.CallEstimate {
	switch {
	case function == lowerASCII && target != nil:
		size := c.size(*target)
		return &checker.CallEstimate{CostEstimate: checker.CostEstimate{Max: traversal(size.Max)}, ResultSize: &size}
	case function == "matches" && target != nil && len(args) > 0:
		return &checker.CallEstimate{CostEstimate: checker.CostEstimate{Max: c.matching(c.size(*target).Max, args[0].Expr())}}
	case function == "matches" && len(args) > 1:
		return &checker.CallEstimate{CostEstimate: checker.CostEstimate{Max: c.matching(c.size(args[0]).Max, args[1].Expr())}}
	}
	return nil
}

// CallCost is what such a call has cost.
func (c *estimator) CallCost(function, _ string, args []ref.Val, _ ref.Val) *uint64 {
	var cost uint64
	switch {
	case function == lowerASCII && len(args) > 0:
		cost = traversal(length(args[0]))
	case function == "matches" && len(args) > 1:
		text, _ := args[1].(types.String)
		cost = steps(length(args[0]), c.patterns[string(text)])
	default:
		return nil
	}
	return &cost
}

func (c *estimator) size(n checker.AstNode) checker.SizeEstimate {
	if s := n.ComputedSize(); s != nil {
		return *s
	}
	if s := c.EstimateSize(n); s != nil {
		return *s
	}
	return checker.UnknownSizeEstimate()
}

func (c *estimator) matching(size uint64, pattern ast.Expr) uint64 {
	text, _ := pattern.AsLiteral().(types.String)
	return steps(size, c.patterns[string(text)])
}

// traversal is the cost of looking at each character of a text, as CEL counts it.
func traversal(size uint64) uint64 { return 1 + size/10 }

// steps is the cost of matching: linear in the text and in the pattern's instructions.
func steps(size, instructions uint64) uint64 {
	if size > math.MaxUint32 {
		return math.MaxUint64
	}
	return 1 + (size+1)*(instructions+1)/10
}

func length(v ref.Val) uint64 {
	s, _ := v.(types.String)
	return uint64(len(s))
}
