#!/usr/bin/perl
# A web server in one file, for manifests/web.toml. Needs nothing but Debian's perl-base.
#
#   PORT       where to listen on 127.0.0.1 (37180)
#   GREETING   what to say (hello)
use strict;
use warnings;
use IO::Socket::INET;

my $port     = $ENV{PORT}     // 37180;
my $greeting = $ENV{GREETING} // 'hello';
my $started  = time;
my $served   = 0;

$| = 1;                       # the log is a file: without this, lines come late
$SIG{PIPE} = 'IGNORE';        # a client that hangs up must not end us
$SIG{TERM} = sub { print "asked to stop after $served requests\n"; exit 0 };

my $server = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1',
    LocalPort => $port,
    Listen    => 64,
    ReuseAddr => 1,
) or die "cannot listen on 127.0.0.1:$port: $@\n";
print "listening on http://127.0.0.1:$port as pid $$\n";

while (1) {
    my $client = $server->accept or next;
    my $path = request($client);
    answer($client, $path) if defined $path;
    close $client;
}

# The path that is asked for; undef where no request comes within two seconds.
sub request {
    my ($client) = @_;
    my $line = eval {
        local $SIG{ALRM} = sub { die "slow\n" };
        alarm 2;
        my $first = <$client>;
        while (defined(my $header = <$client>)) { last if $header =~ /^\r?$/ }
        alarm 0;
        $first;
    };
    alarm 0;
    return defined $line && $line =~ m{^(?:GET|HEAD) (\S+) HTTP/1\.[01]\r?$} ? $1 : undef;
}

sub answer {
    my ($client, $path) = @_;
    my ($status, $body) =
        $path eq '/health' ? ('200 OK', "ok\n")
      : $path eq '/'       ? ('200 OK', greeting())
      :                      ('404 Not Found', "nothing here\n");
    print $client "HTTP/1.1 $status\r\nContent-Type: text/plain\r\nContent-Length: ",
        length $body, "\r\nConnection: close\r\n\r\n$body";
    return if $path eq '/health';    # asked for all day: not worth a line each
    $served++;
    print "$status $path\n" =~ s/[^\x20-\x7e\n]/?/gr;
}

sub greeting {
    return sprintf "%s from pid %d, up for %d s, %d requests before yours\n", $greeting, $$, time - $started, $served;
}
