package fdbroker

import (
	"encoding/binary"
	"math"
	"reflect"
	"strconv"
	"sync"
	"unicode/utf8"
)

// Protocol buffers, as far as the messages here need them: varints, doubles, and what has a length.

const (
	wireVarint  = 0
	wireFixed64 = 1
	wireLength  = 2
	wireFixed32 = 5

	mostDepth = 16
)

type fieldPlan struct {
	number   uint64
	index    int
	kind     reflect.Kind // Uint64, Bool, Float64, String, Slice (bytes), Struct
	repeated bool
	pointer  bool
}

type messagePlan struct {
	fields       []fieldPlan
	byNumber     map[uint64]*fieldPlan
	alternatives bool
}

var plans sync.Map

func planOf(t reflect.Type) *messagePlan {
	if known, ok := plans.Load(t); ok {
		return known.(*messagePlan)
	}
	plan := &messagePlan{byNumber: map[uint64]*fieldPlan{}}
	_, plan.alternatives = reflect.Zero(t).Interface().(interface{ alternatives() })
	for i := 0; i < t.NumField(); i++ {
		number, _ := strconv.ParseUint(t.Field(i).Tag.Get("pb"), 10, 32)
		of := t.Field(i).Type
		field := fieldPlan{number: number, index: i}
		if of.Kind() == reflect.Pointer {
			of, field.pointer = of.Elem(), true
		}
		if of.Kind() == reflect.Slice && of.Elem().Kind() != reflect.Uint8 {
			of, field.repeated = of.Elem(), true
		}
		field.kind = of.Kind()
		plan.fields = append(plan.fields, field)
	}
	for i := range plan.fields {
		plan.byNumber[plan.fields[i].number] = &plan.fields[i]
	}
	plans.Store(t, plan)
	return plan
}

// marshal gives the bytes of a message, a pointer to a struct. A field that is 0 is left out, unless a pointer says that it was given.
func marshal(message any) []byte {
	return appendMessage(nil, reflect.ValueOf(message).Elem())
}

func appendMessage(out []byte, message reflect.Value) []byte {
	for _, field := range planOf(message.Type()).fields {
		value := message.Field(field.index)
		switch {
		case field.repeated:
			for i := 0; i < value.Len(); i++ {
				out = appendField(out, field, value.Index(i))
			}
		case field.pointer:
			if !value.IsNil() {
				out = appendField(out, field, value.Elem())
			}
		case field.kind == reflect.Slice:
			if value.Len() > 0 {
				out = appendField(out, field, value)
			}
		case !value.IsZero():
			out = appendField(out, field, value)
		}
	}
	return out
}

func appendField(out []byte, field fieldPlan, value reflect.Value) []byte {
	tag := func(wire uint64) { out = binary.AppendUvarint(out, field.number<<3|wire) }
	switch field.kind {
	case reflect.Uint64:
		tag(wireVarint)
		return binary.AppendUvarint(out, value.Uint())
	case reflect.Bool:
		tag(wireVarint)
		if value.Bool() {
			return append(out, 1)
		}
		return append(out, 0)
	case reflect.Float64:
		tag(wireFixed64)
		return binary.LittleEndian.AppendUint64(out, math.Float64bits(value.Float()))
	case reflect.String:
		tag(wireLength)
		out = binary.AppendUvarint(out, uint64(value.Len()))
		return append(out, value.String()...)
	case reflect.Slice:
		tag(wireLength)
		out = binary.AppendUvarint(out, uint64(value.Len()))
		return append(out, value.Bytes()...)
	default:
		tag(wireLength)
		data := appendMessage(nil, value)
		out = binary.AppendUvarint(out, uint64(len(data)))
		return append(out, data...)
	}
}

func malformed(why string) *Error {
	return fault("ERR_FDB_MESSAGE", "the peer sent what is no message of this protocol: %s", why)
}

// unmarshal reads a message of at most so many fields into a pointer to a zero struct. Unknown fields are skipped.
func unmarshal(data []byte, message any, mostFields int) error {
	return takeMessage(data, reflect.ValueOf(message).Elem(), &mostFields, 0)
}

func varint(data []byte) (uint64, []byte, error) {
	value, n := binary.Uvarint(data)
	if n <= 0 {
		return 0, nil, malformed("a number without an end")
	}
	return value, data[n:], nil
}

func takeMessage(data []byte, message reflect.Value, left *int, depth int) error {
	if depth > mostDepth {
		return malformed("messages too deep in each other")
	}
	plan := planOf(message.Type())
	for len(data) > 0 {
		if *left--; *left < 0 {
			return malformed("too many fields")
		}
		tag, rest, err := varint(data)
		if err != nil {
			return err
		}
		number, wire := tag>>3, tag&7
		if number == 0 {
			return malformed("a field of number 0")
		}
		var value uint64
		var bytes []byte
		switch wire {
		case wireVarint:
			value, rest, err = varint(rest)
		case wireFixed64:
			if len(rest) < 8 {
				return malformed("a field that is cut")
			}
			value, rest = binary.LittleEndian.Uint64(rest), rest[8:]
		case wireFixed32:
			if len(rest) < 4 {
				return malformed("a field that is cut")
			}
			rest = rest[4:]
		case wireLength:
			if value, rest, err = varint(rest); err == nil {
				if value > uint64(len(rest)) {
					return malformed("a field that is cut")
				}
				bytes, rest = rest[:value], rest[value:]
			}
		default:
			return malformed("a field of kind " + strconv.FormatUint(wire, 10))
		}
		if err != nil {
			return err
		}
		data = rest
		field := plan.byNumber[number]
		if field == nil {
			continue
		}
		if plan.alternatives {
			message.SetZero()
		}
		if err := takeField(*field, wire, value, bytes, message.Field(field.index), left, depth); err != nil {
			return err
		}
	}
	return nil
}

func takeField(field fieldPlan, wire, value uint64, bytes []byte, into reflect.Value, left *int, depth int) error {
	expected := uint64(wireLength)
	switch field.kind {
	case reflect.Uint64, reflect.Bool:
		expected = wireVarint
	case reflect.Float64:
		expected = wireFixed64
	}
	if wire != expected {
		return nil
	}
	one := into
	if field.repeated {
		one = reflect.New(into.Type().Elem()).Elem()
	} else if field.pointer {
		if into.IsNil() {
			into.Set(reflect.New(into.Type().Elem()))
		}
		one = into.Elem()
	}
	switch field.kind {
	case reflect.Uint64:
		one.SetUint(value)
	case reflect.Bool:
		one.SetBool(value != 0)
	case reflect.Float64:
		one.SetFloat(math.Float64frombits(value))
	case reflect.String:
		if !utf8.Valid(bytes) {
			return malformed("a text that is no UTF-8")
		}
		one.SetString(string(bytes))
	case reflect.Slice:
		one.SetBytes(append([]byte(nil), bytes...))
	default:
		if err := takeMessage(bytes, one, left, depth+1); err != nil {
			return err
		}
	}
	if field.repeated {
		into.Set(reflect.Append(into, one))
	}
	return nil
}
