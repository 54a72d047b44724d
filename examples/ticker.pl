#!/usr/bin/perl
# Writes a line every so many seconds, for manifests/ticker.toml. Needs nothing but Debian's perl-base.
#
#   ticker.pl SECONDS
use strict;
use warnings;

my $seconds = shift // 2;
die "usage: ticker.pl SECONDS\n" unless $seconds =~ /^[1-9][0-9]*$/;

$| = 1;
$SIG{TERM} = sub { print "asked to stop\n"; exit 0 };

for (my $tick = 1; ; $tick++) {
    print "tick $tick\n";
    sleep $seconds;
}
