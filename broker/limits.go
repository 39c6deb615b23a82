package broker

// limited reports whether the authorization server bounds the client's tokens, so
// that one more may cost what others still need.
func (u Upstream) limited() bool { return false }
