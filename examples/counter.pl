#!/usr/bin/perl
# Counts lines that are sent over TCP, for manifests/counter.toml. Needs nothing but Debian's perl-base.
#
#   counter.pl serve PORT    answers each line with how many there were
#   counter.pl check PORT    asks, prints `ok N`, and exits 0 if it was answered within a second
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;

my ($verb, $port) = @ARGV;
die "usage: counter.pl serve|check PORT\n"
    unless @ARGV == 2 && $verb =~ /^(?:serve|check)$/ && $port =~ /^[0-9]+$/;
$| = 1;
$verb eq 'serve' ? serve() : check();

sub serve {
    $SIG{PIPE} = 'IGNORE';
    $SIG{TERM} = sub { print "asked to stop\n"; exit 0 };
    my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 64, ReuseAddr => 1)
        or die "cannot listen on 127.0.0.1:$port: $@\n";
    print "listening on 127.0.0.1:$port as pid $$\n";
    my $sockets = IO::Select->new($server);
    my $count   = 0;
    while (my @ready = $sockets->can_read) {
        for my $socket (@ready) {
            if ($socket == $server) {
                my $client = $server->accept;
                $sockets->add($client) if $client;
            }
            elsif (sysread $socket, my $text, 4096) {
                $count += $text =~ tr/\n//;
                syswrite $socket, "$count\n" if $text =~ /\n/;
            }
            else {
                $sockets->remove($socket);
                close $socket;
            }
        }
    }
}

sub check {
    my $client = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 1)
        or die "nobody listens on 127.0.0.1:$port\n";
    syswrite $client, "\n";
    die "no answer within a second\n" unless IO::Select->new($client)->can_read(1);
    sysread $client, my $count, 64 or die "it hung up\n";
    print "ok $count";
}
