# make-tree.pl DIR FILES < LIST: for each line of the list a directory of text files, FILES in all, 25 kB each on
# average, the same each time. Another line, as for another version, gives other files. No text comes twice.
use strict;
use warnings;

my ($root, $files) = @ARGV;
my $mean = 25_000;
my $state = 1;

# A linear congruential generator, so that the files do not depend on perl's own.
sub chance { $state = ($state * 1103515245 + 12345) % 2147483648; return $state >> 8; }

# Making words takes long, exchanging letters does not: one text, written in another alphabet each time.
my @words = map { join '', map { chr(97 + chance() % 26) } 1 .. 2 + chance() % 8 } 1 .. 1000;
my $text = '';
$text .= $words[chance() % @words] . (chance() % 12 ? ' ' : "\n") while length $text < 8_000_000;

my ($write, $at);

sub other_alphabet {
    my @letters = ('a' .. 'z');
    for my $i (reverse 1 .. 25) { my $j = chance() % ($i + 1); @letters[$i, $j] = @letters[$j, $i]; }
    # tr's table is fixed when it is compiled.
    $write = eval sprintf 'sub { $_[0] =~ tr/a-z/%s/r }', join '', @letters or die $@;
    $at = 0;
}

chomp(my @lines = <STDIN>);
mkdir $root or die "$root: $!";
my $share = int($files / @lines);
for my $line (@lines) {
    $state = 1;
    $state = ($state * 31 + ord) % 2147483648 for split //, $line;
    other_alphabet();
    my ($name) = split ' ', $line;
    my $directory = "$root/$name";
    mkdir $directory or die "$directory: $!";
    for my $number (0 .. $share - 1) {
        if ($number % 100 == 0) {
            $directory = sprintf '%s/%s/%03d', $root, $name, $number / 100;
            mkdir $directory or die "$directory: $!";
        }
        my $size = 100 + int -($mean - 100) * log((1 + chance() % 65536) / 65536);
        other_alphabet() if $at + $size > length $text;
        open my $file, '>', sprintf('%s/%05d.txt', $directory, $number) or die $!;
        print {$file} $write->(substr $text, $at, $size) or die $!;
        close $file or die $!;
        $at += $size;
    }
}
