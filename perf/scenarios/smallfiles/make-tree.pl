# make-tree.pl DIR COUNT: writes COUNT files of 100 to 2100 bytes, 100 in a directory, the same each time.
use strict;
use warnings;

my ($root, $count) = @ARGV;
my $state = 1;

# A linear congruential generator, so that the files do not depend on perl's own.
sub chance { $state = ($state * 1103515245 + 12345) % 2147483648; return $state >> 8; }

my @words = map { join '', map { chr(97 + chance() % 26) } 1 .. 3 + chance() % 7 } 1 .. 2000;
mkdir $root or die "$root: $!";
for my $number (0 .. $count - 1) {
    my $directory = sprintf '%s/%03d', $root, $number / 100;
    if ($number % 100 == 0) { mkdir $directory or die "$directory: $!"; }
    open my $file, '>', sprintf('%s/%05d.txt', $directory, $number) or die $!;
    my $size = 100 + chance() % 2000;
    my $text = '';
    $text .= $words[chance() % @words] . ' ' while length $text < $size;
    print {$file} $text;
    close $file or die $!;
}
