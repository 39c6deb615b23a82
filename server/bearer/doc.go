// Package bearer verifies the JWTs that callers show as bearer tokens: service-account
// tokens of Kubernetes, workload tokens of an OpenID provider, JWT access tokens of an
// authorization server.
//
// A token stands for the identity "jwt:ISSUER#SUBJECT" if all of this holds; what does
// not is an [*Error] with one of a closed set of causes and nothing of the token in it.
//
//   - It is a compact JWS of at most 16 KiB (RFC 7515 §7.1): three segments in strict
//     base64url, header and claims each one JSON object without a member that is there
//     twice (RFC 7515 §4). Encrypted tokens, detached payloads (b64) and headers that
//     declare anything critical (crit) are refused. Keys that a token brings along or
//     points to (jwk, jku, x5c, x5u) are never used and never fetched.
//   - Its iss is exactly that of a configured issuer. The issuer decides which keys,
//     algorithms, audiences and types are good; nothing in the token does. No two
//     issuers have the same iss.
//   - Its alg is on the issuer's list and fits the key: RS and PS need RSA of 2048 bits
//     or more, ES its curve, EdDSA Ed25519. There is no "none" and no HMAC, so that a
//     public key is never taken for a shared secret (RFC 8725 §3.1).
//   - Its typ, without "application/" and whatever its case, is one that the issuer's
//     tokens have (RFC 8725 §3.11): a token made for another purpose is none for us.
//   - aud has one of the issuer's audiences, exp is there and not past, nbf and iat are
//     not in the future, exp - iat is not over max_lifetime, required claims are there.
//   - Exactly one key of the issuer's set has the token's kid and fits its alg, and the
//     signature is that key's. A token without kid is good only while exactly one key
//     of the set fits. A kid that two fitting keys share names none.
//
// What costs least is checked first: a flood of tokens for somebody else, or past their
// time, costs no cryptography. Every cause but [Replayed] and [ReplayMemoryFull] is
// therefore about a token whose signature was not verified, or not good: what it claims
// was claimed by anybody.
//
// # Keys
//
// Keys come from a file, a URL, or the issuer's discovery document. Verify never
// fetches: a goroutine for each issuer, which [Verifier.Run] owns, does, one fetch at a
// time. A fetch replaces the set, so that a withdrawn key stops working at once. It
// happens every 5 minutes, or as Cache-Control says (1 minute to 1 hour), up to a tenth
// sooner, and when a token names a kid that the set does not have, at most every 30
// seconds. Neither a bad signature nor a token without kid causes one. A failed fetch leaves the last set in force for
// max_stale (24 hours); then, and before the first fetch, the cause is
// [KeysUnavailable], which says nothing about the token.
//
// Keys that are symmetric, private, too short, ambiguous, not for signatures, or whose
// alg contradicts their type are dropped from a set; the rest is used. What is not a
// JWK Set at all is a failed fetch. A set without a usable key is not: an issuer that
// withdrew its last key says just that.
//
// # Cache
//
// Verified tokens are remembered by their SHA-256, never the token, so that showing one
// again costs a hash. A hit checks the expiry and that the issuer's keys are the ones
// it was verified with. Refused tokens are not remembered: nobody without a good token
// makes the service remember anything.
package bearer
