#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Debian's programs at work: prints one line "NAME DIGEST" for each output. The same natively and in the
# guest (tests/stress/run.py compares). Inputs are made here, with nothing random in them.
export LC_ALL=C PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=0
dir=$(mktemp -d /tmp/userland.XXXXXX) && cd "$dir" || exit 1
trap 'cd /; rm -rf "$dir"' EXIT

digest() { # digest NAME: of standard input
    printf 'userland %s %s\n' "$1" "$(sha256sum | cut -c1-32)"
}

# --- perl: text, numbers, regular expressions, sorting
perl -e '
    my $x = 12345; my @w;
    for my $i (0 .. 59999) {
        $x = ($x * 1103515245 + 12345) & 0x7fffffff;
        push @w, substr("lorem ipsum dolor sit amet consectetur adipiscing elit", $x % 40, 3 + $x % 7);
        print join(" ", splice(@w)), "\n" if $i % 12 == 11;
    }' >text
digest perl-text <text
perl -ne 'for my $w (split) { $c{$w}++ } END { print map { "$_ $c{$_}\n" } sort { $c{$b} <=> $c{$a} || $a cmp $b } keys %c }' text |
    digest perl-count
perl -ne 's/(\w+) (\w+)/\u$2-\U$1/g; tr/a-f/A-F/; print if /^(?:[^o]*o){4}/' text | digest perl-regex
perl -MMath::BigInt -e 'print Math::BigInt->new(150)->bfac(), "\n"; printf "%.17g %a\n", sin($_) ** 3, exp(-$_ / 7) for 1 .. 400' |
    digest perl-numbers
perl -MDigest::SHA=sha512_hex -e 'my $s = ""; $s = sha512_hex($s . $_) for 1 .. 3000; print $s' | digest perl-sha

# --- xz, gzip and what coreutils do
for level in 0 6 9e; do
    xz -$level -T1 -c text | tee text.xz | digest xz-$level
    xz -dc text.xz | cmp - text || echo "userland xz-$level wrong"
done
xz -T2 --block-size=65536 -c text | digest xz-threads
gzip -9n -c text | digest gzip
sort text | digest sort
sort -R --random-source=text text | digest shuffle
awk '{ for (i = 1; i <= NF; i++) n[length($i)] += $1 "" > $i; } END { for (i = 1; i < 12; i++) print i, n[i], log(i + 1) }' text |
    digest awk
sed -E 's/(.)(.)/\2\1/g; y/abc/xyz/; 3~5d' text | digest sed
for tool in md5sum sha1sum sha512sum b2sum cksum; do $tool <text; done | digest sums
bash -c 's=1; for ((i = 0; i < 5000; i++)); do s=$(((s * 31 + i) % 1000003)); done; echo $s' | digest bash

# --- openssl: digests, ciphers, keys made from fixed numbers
for d in md5 sha1 sha224 sha256 sha384 sha512 sha3-256 sha3-512 blake2b512 blake2s256 shake128 ripemd160 sm3; do
    openssl dgst -provider legacy -provider default -$d text
done 2>&1 | digest openssl-digests
for c in aes-128-cbc aes-256-ctr aes-192-ecb aes-256-ofb camellia-256-cbc aria-256-cbc chacha20 des-ede3-cbc sm4-cbc; do
    openssl enc -$c -K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f -iv 00112233445566778899aabbccddeeff \
        -in text 2>/dev/null
done | digest openssl-ciphers
openssl enc -aes-256-cbc -pbkdf2 -iter 4000 -S 0011223344556677 -pass pass:word -in text | digest openssl-pbkdf2
openssl mac -macopt digest:SHA256 -macopt hexkey:0011 -in text HMAC | digest openssl-hmac
openssl kdf -keylen 64 -kdfopt pass:word -kdfopt salt:salt -kdfopt n:1024 -kdfopt r:8 -kdfopt p:1 SCRYPT | digest openssl-scrypt
for n in 5915587277 1000000000000000000000000000057 3; do openssl prime $n; done | digest openssl-prime
if [ -f /extra/key.pem ]; then
    openssl dgst -sha256 -sign /extra/key.pem text | digest openssl-rsa
    openssl dgst -sha256 -sign /extra/key.pem -out sig text
    openssl rsa -in /extra/key.pem -pubout -out pub 2>/dev/null
    openssl dgst -sha256 -verify pub -signature sig text | digest openssl-verify
fi

# --- sqlite3
sqlite3 data.db <<'END' | digest sqlite-queries
pragma journal_mode = memory;
create table t(id integer primary key, v text, n real);
with recursive c(i) as (select 1 union all select i + 1 from c where i < 8000)
    insert into t select i, hex(i * 7919 % 10007) || '-' || i, i / 7.0 from c;
create index tv on t(v);
create table u as select id * 3 % 8000 as k, n * 2 as w from t where id % 2;
select count(*), sum(w), avg(n) from t join u on u.k = t.id;
select v, rank() over (order by n desc) from t where v like '%9_-1%' limit 50;
update t set v = upper(v) || length(v) where id % 3 = 0;
delete from t where id % 5 = 1;
select group_concat(v, '|') from (select v from t order by v limit 300);
select json_group_array(json_object('id', id, 'n', round(n, 5))) from t where id < 100;
pragma integrity_check;
END
digest sqlite-file <data.db
sqlite3 data.db .dump | digest sqlite-dump

# --- python3
cat >work.py <<'END'
import decimal, fractions, hashlib, json, math, random, re, struct, zlib, bz2, lzma, itertools
random.seed(42)
decimal.getcontext().prec = 60
rows = [{"i": i, "f": random.gauss(0, 1), "s": "%x" % random.getrandbits(80)} for i in range(3000)]
text = json.dumps(rows, sort_keys=True)
print(hashlib.sha256(text.encode()).hexdigest(), zlib.crc32(text.encode()))
for m in (zlib, bz2, lzma):
    packed = m.compress(text.encode())
    assert m.decompress(packed).decode() == text
    print(m.__name__, len(packed), hashlib.md5(packed).hexdigest())
print(sum(r["f"] for r in json.loads(text)), math.fsum(math.sin(i) * math.gamma(i % 20 + 0.5) for i in range(3000)))
print(decimal.Decimal(2).sqrt() ** 7, decimal.Decimal(3).ln(), fractions.Fraction(355, 113) ** 9)
print(pow(3, 10**40, 2**521 - 1), math.factorial(300) % 10**9)
sieve = bytearray([1]) * 50000
for i in range(2, 224):
    if sieve[i]:
        sieve[i * i::i] = bytes(len(range(i * i, 50000, i)))
print(sum(sieve), hash(("a", 1, 2.5)), re.sub(r"(\d+)", lambda m: str(int(m[1]) * 3), text)[:200])
class Node:
    def __init__(self, v): self.v, self.l, self.r = v, None, None
    def add(self, v):
        side = "l" if v < self.v else "r"
        n = getattr(self, side)
        n.add(v) if n else setattr(self, side, Node(v))
    def __iter__(self):
        if self.l: yield from self.l
        yield self.v
        if self.r: yield from self.r
root = Node(0.5)
for _ in range(3000): root.add(random.random())
print(hashlib.sha1(b"".join(struct.pack("<d", v) for v in root)).hexdigest())
print(list(itertools.islice(itertools.permutations("sosia"), 50, 60)))
END
python3 work.py 2>&1 | digest python
python3 -m py_compile work.py && tail -c +17 __pycache__/work.*.pyc | digest python-bytecode

# --- gcc: what it makes, and what that does
perl -e 'print "#include <math.h>\n#include <stdio.h>\n";
    for my $n (1 .. 12) { print "double f$n(double x, int k) { double s = $n; for (int i = 0; i < k; i++) { switch ((i * $n) % 7) { case 0: s += x * i; break; case 1: s = sqrt(fabs(s)); break; case 2: s -= sin(x + i); break; case 3: s *= 1.0 / (1 + i); break; default: s += (i ^ $n) & 15; } } return s; }\n" }
    print "int main(void) { double t = 0;\n", (map { "t += f$_($_ * 0.37, 3 * $_ + 40);\n" } 1 .. 12), "printf(\"%.17g %a\\n\", t, t); return 0; }\n"' >made.c
for o in 0 2; do
    gcc -O$o -S -o made$o.s made.c && digest gcc-O$o <made$o.s
done
gcc -O3 -ffast-math -mavx2 -mfma -c -o made.o made.c && digest gcc-object <made.o
gcc -O2 -Wl,--build-id=none -o made made.c -lm && digest gcc-linked <made && ./made | digest gcc-runs
gcc -m32 -O2 -Wl,--build-id=none -o made32 made.c -lm && ./made32 | digest gcc-runs-32
