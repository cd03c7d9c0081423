package pxe

import "container/list"

// lru is a map of a bounded number of keys: the one that was used least recently is forgotten first. Not safe for
// concurrent use.
type lru[K comparable, V any] struct {
	max   int
	byKey map[K]*list.Element // of *entry[K, V]
	order *list.List          // by use, oldest first
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit, map[K]*list.Element{}, list.New()}
}

// get returns the value of key, which counts as used.
func (l *lru[K, V]) get(key K) (v V, ok bool) {
	el, ok := l.byKey[key]
	if !ok {
		return v, false
	}
	l.order.MoveToBack(el)
	return el.Value.(*entry[K, V]).value, true
}

// drop forgets key.
func (l *lru[K, V]) drop(key K) {
	if el, ok := l.byKey[key]; ok {
		delete(l.byKey, key)
		l.order.Remove(el)
	}
}

// put sets the value of key.
func (l *lru[K, V]) put(key K, v V) {
	if el, ok := l.byKey[key]; ok {
		el.Value.(*entry[K, V]).value = v
		l.order.MoveToBack(el)
		return
	}
	l.byKey[key] = l.order.PushBack(&entry[K, V]{key, v})
	if l.order.Len() > l.max {
		oldest := l.order.Front()
		delete(l.byKey, oldest.Value.(*entry[K, V]).key)
		l.order.Remove(oldest)
	}
}
