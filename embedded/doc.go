// Package embedded keeps the broker's records in one encrypted file: the store
// for a laptop, a test, or a single node without a Vault.
//
// It guards three invariants. A file is opened by one process at a time. A
// commit is on the disk when Write or Destroy returns, whole or not at all. What
// this package does not understand it does not change: a file that is damaged,
// foreign, or of another key is refused as it is.
//
// # The file
//
// The file is a bbolt database with three buckets. "names" maps a record's key to
// its version, the time at which it was destroyed, and the number under which
// "values" has the sealed data; names are apart so that a list or an absence costs
// no look at a value. "about" has the format and the sealed head.
//
// Values are sealed with AES-256-GCM and a random nonce. Each record has a key of
// its own, derived (HKDF-SHA256) from the store's key and the record's name, so
// that the bound on random nonces (2^32 under one key) is one of each record; name
// and version are additional data, so that a value put in another's place, or an
// older value in that of a newer one, does not open. The head has the sum of the
// keyed hashes of all names and their versions. It is compared when the file is
// opened, so that a record which vanished, appeared or was put back together with
// its name is noticed too.
//
// # What it does not do
//
// Names, sizes and times are not hidden. A file that is put back as a whole, such
// as a restored backup, is not noticed. bbolt keeps two heads of its own for the
// sake of torn writes: if the newer one rots, the state before the last commit is
// what is found.
//
// [Store.Destroy] takes the value out of the store; it does not shred it. The
// sealed bytes stay in free pages of the file until these are used again, and in
// whatever the disk and its backups keep. Who has those bytes and the key file can
// open them. (Vault's Raft storage is a bbolt file as well and does the same.)
// A secret that must be dead is dead when the authorization server refuses it.
//
// The key file protects copies of the store file, such as backups, as long as it
// is not copied with them. It does not protect from somebody who can read the
// folder of both.
package embedded
